"""What a shell completes: runs, recipes, stages and benchmarks, without a heavy library."""

import json
import os
import subprocess
import sys

import pytest
from typer.main import get_command

from flows.cli import app
from flows.words import completing
from tasks.keys import ROOT

# Each takes tenths of a second to import, or seconds; a shell would wait for it at every press of the key. Typer itself imports pydantic.
HEAVY = ("torch", "transformers", "prefect", "vllm", "datasets", "numpy", "fsspec", "yaml")


@pytest.fixture
def home(tmp_path, monkeypatch):
    for number, name in enumerate(("pairs-20260101-aaaa", "pairs-20260102-bbbb", "quickstart-20260103-cccc")):
        folder = tmp_path / "home" / "runs" / name
        folder.mkdir(parents=True)
        os.utime(folder, (number, number))
    monkeypatch.setenv("BNF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_runs_are_completed_the_newest_first(home):
    assert completing.runs("") == ["quickstart-20260103-cccc", "pairs-20260102-bbbb", "pairs-20260101-aaaa", "latest"]
    assert completing.runs("pa") == ["pairs-20260102-bbbb", "pairs-20260101-aaaa"] and completing.runs("la") == ["latest"]
    assert completing.runs("models/") == []  # the shell completes a folder


def test_runs_are_completed_wherever_one_is_named(home):
    commands = get_command(app).commands
    named = {name: param for name, command in commands.items() for param in command.params if "RUN" in (param.metavar or "")}
    assert {"show", "rm", "ui", "watch", "compare", "export"} <= named.keys()
    for name, param in named.items():
        found = param.shell_complete(commands[name].make_context(name, [], resilient_parsing=True), "quick")
        assert [one.value for one in found] == ["quickstart-20260103-cccc"], name


def test_without_a_home_nothing_is_completed_and_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("BNF_HOME", str(tmp_path / "none"))
    assert completing.runs("") == [] and not (tmp_path / "none").exists()


def test_recipes_of_a_folder_and_of_the_project_are_completed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my").mkdir()
    for path in ("mine.yaml", "other.txt", "my/third.yml"):
        (tmp_path / path).write_text("")
    assert completing.recipes("m") == ["mine.yaml"]
    assert completing.recipes("my/") == ["my/third.yml"]
    assert completing.recipes(f"{tmp_path}/mi") == [f"{tmp_path}/mine.yaml"]
    assert completing.recipes("flows/recipes/qu") == ["flows/recipes/quickstart.yaml"]
    assert "flows/recipes/paper/judged.yaml" in completing.recipes("")
    monkeypatch.chdir(ROOT)
    assert completing.recipes("flows/recipes/qu") == ["flows/recipes/quickstart.yaml"]


def test_stages_and_benchmarks_may_stand_behind_a_comma():
    assert completing.stages("pre") == ["prepare"]
    assert completing.stages("prepare,tr") == ["prepare,train"]
    assert "prepare,prepare" not in completing.stages("prepare,")
    assert completing.benchmarks("mmlu-redux") == ["mmlu_redux", "mmlu_redux_2"]
    assert completing.objectives("dpo") == ["dpo", "dpo_nll", "dpop"] and completing.sources("thu") == ["thumbs"]
    assert completing.engines("v") == ["vllm"]


def test_the_command_answers_a_shell_and_imports_nothing_heavy(home):
    def asked(*words):
        program = (
            "import sys, json; sys.argv = ['bnf']\nfrom flows.cli import main\n"
            "try: main()\nexcept SystemExit: pass\n"
            f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
        )
        environment = {
            **os.environ,
            "_BNF_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(["bnf", *words]),
            "COMP_CWORD": str(len(words)),
        }
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        *completed, heavy = done.stdout.splitlines()
        assert json.loads(heavy) == []
        return completed

    assert asked("show", "pai") == ["pairs-20260102-bbbb", "pairs-20260101-aaaa"]
    assert asked("run", "x.yaml", "--only", "tra") == ["train"]
