"""The stage `report` writes a page of items for each scored benchmark, and these are part of its artifact."""

from pathlib import Path

from tasks.job import Job
from tasks.keys import Ingredients
from tasks.stages import report
from tasks.store import Store, damage
from tests.unit.evaluation.report_folders import scored

ABOUT = {"seconds": 1.0, "versions": {}, "machine": {"cpu": "a cpu", "cores": 2}}
SETTINGS = {
    "recipe": {
        "name": "r",
        "seed": 0,
        "model_name_or_path": "m",
        "evaluation": {"engine": "vllm", "benchmarks": {"gsm8k": None}},
    },
    "models": {"base": "m"},
}


def test_pages_of_items_are_made_with_the_report_and_belong_to_its_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    inputs: dict[str, Path] = {}
    for stage, folder in zip(("score", "generate"), scored(tmp_path / "made", "+-0"), strict=True):
        made_of = Ingredients(stage, {}, {}, {})
        work = store.work_folder(stage, made_of.key())
        for file in folder.iterdir():
            (work / file.name).write_bytes(file.read_bytes())
        inputs[f"{stage}/base/gsm8k"] = store.commit(made_of, work, content=("*",), fingerprint=None, about=ABOUT).path
    made_of = Ingredients("report", {}, {}, {})
    work = store.work_folder("report", made_of.key())
    report.run(Job(SETTINGS, inputs, work, lambda *_: None))
    made = store.commit(made_of, work, content=report.CONTENT, fingerprint=None, about=ABOUT)
    assert set(made.manifest["files"]) == {"summary.json", "report.html", "items/gsm8k.html"}
    assert 'href="items/gsm8k.html"' in (made.path / "report.html").read_text()
    (made.path / "items" / "gsm8k.html").unlink()
    assert damage(made) is not None
