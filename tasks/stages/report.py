"""Report: everything a run found, as summary.json and one self-contained report.html."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.records import read_json
from tasks.job import Job

CONTENT = ("summary.json", "report.html")
# The report shows what training logged; weights stay where they are.
LEAVES_OUT = ("*.safetensors",)


def run(job: Job) -> None:
    from evaluation.report.build import build_report

    artifacts = {node: folder for node, folder in job.inputs.items() if folder.is_dir()}
    build_report(collect(job.settings, artifacts), job.output)


def collect(settings: Mapping[str, Any], artifacts: Mapping[str, Path]) -> dict[str, Any]:
    """What the report is made from: the folders of the run's artifacts by their node ids, and what their manifests say of them."""
    found: dict[str, Any] = {
        "scores": {},
        "generations": {},
        "judges": {},
        "contamination": {},
        "cross_checks": {},
        "lm_eval": {},
        "models": {},
        "digests": {},
        "rounds": {},
        "stages": [],
    }
    by_benchmark = {"score": "scores", "generate": "generations", "cross_check": "cross_checks", "lm_eval": "lm_eval"}
    versions: dict[str, str] = {}
    # Of several rounds the last one's, as what led to the aligned model.
    folders = {"train": "train", "analyze": "shifts", "prepare": "data"}
    for node, folder in artifacts.items():
        manifest = read_json(folder / "manifest.json")
        stage, model, benchmark = [*node.split("/"), None, None][:3]
        if stage in by_benchmark:
            found[by_benchmark[stage]].setdefault(benchmark, {})[model] = str(folder)
        elif stage == "judge":
            # `judge/arena_hard`; another form or another judge of a benchmark is `judge/checklist_pairwise/wildbench`.
            benchmark, model = (benchmark, model) if benchmark else (model, None)
            found["judges"]["/".join(filter(None, (benchmark, model)))] = str(folder)
        elif stage == "contamination":
            benchmark, model = model, None
            found["contamination"][benchmark] = str(folder)
        elif stage in folders:
            found[folders[stage]] = str(folder)
        if stage in ("label", "measure", "prepare", "train"):
            number = int((model or "round1").removeprefix("round")) if model != "offline" else 0
            found["rounds"].setdefault(number, {})[stage] = str(folder)
        if stage == "resolve":
            found["models"][model] = settings["models"][model]
            found["digests"][model] = manifest["fingerprint"]
        if stage == "train":
            found["models"]["aligned"] = f"{found['models']['base']} aligned with {settings['recipe']['train']['objective']}"
            found["digests"]["aligned"] = manifest["fingerprint"]
        versions |= manifest["versions"]
        found["stages"].append(
            {
                "stage": stage,
                "model": model,
                "benchmark": benchmark,
                "key": manifest["key"],
                "fingerprint": manifest["fingerprint"],
                "seconds": manifest["seconds"],
                "other_code": settings.get("other_code", {}).get(node, []),
            }
        )
    # Only on-policy data come in rounds, and a run from before there were rewards.json is evaluated without.
    rounds = [
        folders
        for _, folders in sorted(found["rounds"].items())
        if "label" in folders and (Path(folders["label"]) / "rewards.json").is_file()
    ]
    return {
        **found,
        "rounds": rounds,
        "train": found.get("train"),
        "shifts": found.get("shifts"),
        "data": found.get("data"),
        "recipe": settings["recipe"],
        "name": settings["recipe"]["name"],
        "versions": versions,
        "machine": manifest_machine(artifacts),
    }


def manifest_machine(artifacts: Mapping[str, Path]) -> dict[str, Any]:
    """The machine that the last of the inputs was made on."""
    *_, last = artifacts.values()
    return dict(read_json(last / "manifest.json")["machine"])
