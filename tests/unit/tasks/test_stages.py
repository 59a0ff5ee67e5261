"""Stages declare themselves: order, inputs, evaluation and the report follow from their files, also for a new one."""

import dataclasses
import json
import shutil
import subprocess
import sys

import pytest

from bnf.plugins import load, names
from evaluation.report.inputs import ReportInputs
from tasks.keys import ROOT
from tasks.nodes import Node, check_inputs
from tasks.stages import STAGES, evaluation_stages, in_order, kind_of_input

ORDER = [
    *("resolve", "sample", "label", "measure", "prepare", "budget", "reference", "train", "analyze"),
    *("generate", "lm_eval", "score", "cross_check", "judge", "contamination", "report"),
]


def test_the_stages_come_in_the_order_of_a_run():
    # These are so; others may come between them.
    assert [name for name in in_order() if name in ORDER] == ORDER
    assert len({load(STAGES, name).ORDER for name in in_order()}) == len(in_order())
    assert [name for name in evaluation_stages() if name in ORDER] == ["resolve", *ORDER[ORDER.index("generate") :]]


def test_what_a_stage_reads_of_another_comes_before_it_and_is_a_stage():
    for place, name in enumerate(ORDER):
        kinds = set(load(STAGES, name).READS.values()) - {"model", "file", "any"}
        # Groups of the offline data go into the groups of a round.
        assert kinds <= {*ORDER[:place], *(["prepare"] if name == "prepare" else [])}, name


def test_a_role_that_a_stage_does_not_read_is_refused():
    assert kind_of_input("prepare", "source12") == "file" and kind_of_input("judge", "answers_base") == "generate"
    with pytest.raises(
        ValueError, match=r"READS must have every role that score reads, got model; add it in tasks/stages/score\.py"
    ):
        kind_of_input("score", "model")
    prepared = Node("prepare", {})
    check_inputs([prepared, Node("contamination", {}, {"data": "prepare"}, benchmark="gsm8k")])
    with pytest.raises(
        ValueError, match="completions of score must be an output of generate, got prepare; correct READS of score"
    ):
        check_inputs([prepared, Node("score", {}, {"completions": "prepare"})])


def test_what_a_stage_reads_is_a_stage_or_comes_from_outside(monkeypatch):
    monkeypatch.setattr("tasks.stages.score.READS", {"completions": "generat"})
    with pytest.raises(
        ValueError, match="READS of score must have a stage, model, file or any under each role, got 'generat'; correct it in"
    ):
        check_inputs([Node("generate", {}), Node("score", {}, {"completions": "generate"})])


TOY = '''"""Count: how many completions there are of a benchmark."""

ORDER = 115
READS = {"completions": "generate"}
CONTENT = ("count.json",)
EVALUATES = True
REPORT = "counts"


def run(job):
    lines = (job.inputs["completions"] / "completions.jsonl").read_text().splitlines()
    (job.output / "count.json").write_text(str(len(lines)))


def outcome(output):
    return f"{(output / 'count.json').read_text()} completions"
'''
USE = """
import json
from pathlib import Path
from flows.dag.selection import Options, select
from tasks.execute import Children, Execution, execute
from tasks.names import TaskName
from tasks.nodes import Node, check_inputs, ingredients, not_done_again
from tasks.stages import STAGES, in_order
from tasks.stages.report import collect
from tasks.store import Artifact, Store
from bnf.plugins import load

generated = Node("generate", {}, role="base", benchmark="toy")
node = Node("count", {}, {"completions": generated.id}, role="base", benchmark="toy")
check_inputs([generated, node])
store = Store(Path("home/artifacts").resolve())
made_of = ingredients(generated, {}, store)
work = store.work_folder("generate", made_of.key())
(work / "completions.jsonl").write_text("{}\\n{}\\n")
inputs = {"completions": store.commit(made_of, work, content=("*.jsonl",), fingerprint=None, about={})}
children = Children(Path("home/logs"))
execution = Execution(store, children, lambda *_: None, lambda *_: None)
artifact = execute(node, ingredients(node, inputs, store), inputs, execution, refresh=False)
children.close()
settings = {"recipe": {"name": "r"}, "models": {}}
print(json.dumps({
    "order": in_order(),
    "allowed": sorted(select([generated, node], Options(only=["count"])).allowed),
    "evaluated": sorted(select([generated, node], Options(evaluate_run="r")).allowed),
    "outcome": load(STAGES, "count").outcome(artifact.path),
    "not done again": not_done_again(node, artifact),
    "code": sorted(artifact.manifest["ingredients"]["code"]),
    "report": {"counts": collect(settings, {node.id: artifact.path}).counts},
    "folder": str(artifact.path),
}, default=str))
"""


def test_a_new_stage_is_its_file_its_node_and_its_section_of_the_report(tmp_path):
    """In a copy of the tree: found, put into the order, selected, executed in a child process, and given to the report."""
    for package in ("bnf", "data", "evaluation", "flows", "tasks"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tasks" / "stages" / "count.py").write_text(TOY)
    inputs = tmp_path / "evaluation" / "report" / "inputs.py"
    first = "    scores: ByModel"
    assert first in inputs.read_text()
    inputs.write_text(inputs.read_text().replace(first, f"    counts: ByModel = field(default_factory=dict)\n{first}"))
    done = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    known = [name for name in found["order"] if name in (*ORDER, "count")]
    assert known == [*ORDER[: ORDER.index("cross_check")], "count", *ORDER[ORDER.index("cross_check") :]]
    assert found["allowed"] == ["count/base/toy"] and found["evaluated"] == ["count/base/toy", "generate/base/toy"]
    assert found["outcome"] == "2 completions" and found["not done again"] is None
    assert found["code"] == ["tasks.stages.count"]
    assert found["report"]["counts"] == {"toy": {"base": found["folder"]}}


def test_every_stage_keeps_the_contract():
    for name in names(STAGES):
        load(STAGES, name)


def test_what_a_stage_gives_to_the_report_is_a_field_of_the_reports_inputs():
    fields = {field.name for field in dataclasses.fields(ReportInputs)}
    assert {load(STAGES, name).REPORT for name in names(STAGES)} - {None} <= fields
