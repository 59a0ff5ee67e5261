"""Resolve: a hub id or a folder becomes a local safetensors folder with its content digest, and the chat template of the recipe."""

from __future__ import annotations

import shutil
from pathlib import Path

from bnf.model.digests import model_digest
from bnf.model.served import served_otherwise
from bnf.model.templates import templated, write_templated
from evaluation.bundle import NotInBundle, opened
from evaluation.hub_loading import refused
from evaluation.records import read_json, write_json
from tasks.job import Identity, Job

ORDER = 10
READS = {"model": "model", "template": "file"}
# Where it lies, if the chat template isn't the model's own.
MODEL = "model"
CONTENT = ("model.json",)
EVALUATES = True
# Safetensors and text files alone: pickled weights and model code are never fetched.
FETCHED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]


def run(job: Job) -> None:
    """Name the model's folder, after fetching it where the recipe gives a hub id.

    Raises:
        ValueError: its message begins with the recipe's key.
    """
    section = job.settings.get("section")
    try:
        _resolve(job)
    except ValueError as error:
        if section is None:
            raise
        # A judge's, or a reference's, are keys of its section.
        raise ValueError(f"{section}{error}") from error


def _resolve(job: Job) -> None:
    folder = job.inputs.get("model") or _download(job.settings["model_name_or_path"], job.settings["revision"])
    template, values = job.inputs.get("template"), job.settings.get("chat_template_kwargs", {})
    if "served" in job.settings and (wrong := served_otherwise(folder, template, values, **job.settings["served"])):
        raise ValueError(wrong)
    # What a killed try left is made anew.
    shutil.rmtree(job.output / MODEL, ignore_errors=True)
    if template is not None or values:
        write_templated(folder, job.output / MODEL, templated(folder, template, values))
    made = job.output / MODEL
    write_json(job.output / "model.json", {"path": str(folder), "digest": model_digest(made if made.is_dir() else folder)})


def identity(output: Path) -> Identity:
    """The artifact is the model: its digest is the fingerprint, and its files stay where they are."""
    model = read_json(output / "model.json")
    if (output / MODEL).is_dir():
        return Identity(fingerprint=model["digest"], model_folder=MODEL, is_linked=True)
    return Identity(fingerprint=model["digest"], model_path=model["path"])


def _download(name: str, revision: str | None) -> Path:
    """The model's folder: of the bundle that `BNF_OFFLINE` names, or as fetched from the hub. No file is missing or cut."""
    bundle = opened()
    try:
        if bundle is not None:
            return bundle.find("model", name, revision)
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, revision=revision, allow_patterns=FETCHED))
    except NotInBundle as error:
        raise ValueError(f"model_name_or_path must be in the bundle that BNF_OFFLINE names, got {name!r}: {error}") from error
    except Exception as error:
        if (said := refused(error, "model", name)) is None:
            raise
        # The next try goes on with the files that are whole.
        raise ValueError(
            f"model_name_or_path must be a folder or a hub id that can be fetched, got {name!r}: {said}; or download the model on a "
            "machine with a network and name its folder"
        ) from error
