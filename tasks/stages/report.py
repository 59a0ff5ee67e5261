"""Report: everything a run found, as summary.json and one self-contained report.html, and a page of items for each scored benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bnf.plugins import load
from evaluation.records import Record
from evaluation.report.inputs import CheckpointFolders, ReportInputs
from tasks.job import Job, Settings
from tasks.manifest import read_manifest
from tasks.names import TaskName
from tasks.stages import STAGES

ORDER = 150
READS = {"*": "any"}
CONTENT = ("summary.json", "report.html", "items/*.html")
EVALUATES = True
# The report shows what training logged; weights stay where they are. So do values per token: the page has them where they are at hand.
LEAVES_OUT = ("*.safetensors",)
_MODELS = ("base", "aligned")
# Of a policy of the way, what isn't a benchmark's score.
_NO_SCORES = ("checkpoint", "generate")


def run(job: Job) -> None:
    from evaluation.report.build import build_report
    from evaluation.report.item_pages import build_item_pages

    artifacts = {task: folder for task, folder in job.inputs.items() if folder.is_dir()}
    collected = collect(job.settings, artifacts)
    build_report(collected, job.output, build_item_pages(collected, job.output))


def collect(settings: Settings, artifacts: Mapping[str, Path]) -> ReportInputs:
    """What the report is made from: the artifacts' folders and what their manifests say. `artifacts` are folders by task id.

    A folder gets the name that its stage's `REPORT` gives. Folders of a benchmark are kept by benchmark, and those of a model's
    benchmark by benchmark and model. Of several rounds the last one's folder is taken: it led to the aligned model.
    """
    of_model: dict[str, dict[str, dict[str, Path]]] = {}
    of_benchmark: dict[str, dict[str, Path]] = {}
    last: dict[str, Path] = {}
    rounds: dict[int, dict[str, Path]] = {}
    of_checkpoint: dict[str, dict[str | None, Path]] = {}
    models: dict[str, str] = {}
    digests: dict[str, str] = {}
    versions: dict[str, str] = {}
    stages: list[Record] = []
    for task, folder in artifacts.items():
        name, manifest = TaskName.from_id(task), read_manifest(folder)
        section = load(STAGES, name.stage).REPORT
        if name.checkpoint is not None:
            of_checkpoint.setdefault(name.checkpoint, {})[name.benchmark if section == "scores" else name.stage] = folder
        elif section is not None and name.benchmark is None:
            last[section] = folder
        elif section is not None and name.role in _MODELS:
            of_model.setdefault(section, {}).setdefault(str(name.benchmark), {})[name.role] = folder
        elif section is not None:
            # `arena_hard`; by another protocol or judge it is `wildbench/second-checklist_pairwise`.
            of_benchmark.setdefault(section, {})["/".join(filter(None, (name.benchmark, name.which)))] = folder
        if name.benchmark is None and name.role is None and name.checkpoint is None:
            rounds.setdefault(name.round or 1, {})[name.stage] = folder
        # The base model's values follow those of a reference that the recipe names, and the page's shifts are from the base model.
        if name.stage == "reference" and name.role in (None, "base"):
            # No `REPORT` of the stage's own: what its file says is part of its key, and nobody computes a reference anew for a page.
            last["reference"] = folder
        if name.stage == "resolve":
            models[str(name.role)] = settings["models"][name.role]
            digests[str(name.role)] = manifest["fingerprint"]
        if name.stage == "train":
            models["aligned"] = f"{models['base']} aligned with {settings['recipe']['train']['objective']}"
            digests["aligned"] = manifest["fingerprint"]
        versions |= manifest["versions"]
        stages.append(
            {
                **name.as_json(),
                "key": manifest["key"],
                "fingerprint": manifest["fingerprint"],
                "seconds": manifest["seconds"],
                "other_code": settings.get("other_code", {}).get(task, []),
            }
        )
    *_, newest = artifacts.values()
    sections: Record = {**last, **of_benchmark, **of_model}
    return ReportInputs(
        name=settings["recipe"]["name"],
        recipe=settings["recipe"],
        models=models,
        digests=digests,
        stages=stages,
        versions=versions,
        machine=read_manifest(newest)["machine"],
        # Only on-policy data come in rounds.
        checkpoints=[
            CheckpointFolders(
                name, folders["checkpoint"], {str(of): path for of, path in folders.items() if of not in _NO_SCORES}
            )
            for name, folders in of_checkpoint.items()
        ],
        rounds=[folders for _, folders in sorted(rounds.items()) if "label" in folders],
        **sections,
    )
