"""A sweep's file and its folder in the home: what of them is refused, and what becomes of a sweep whose file was changed."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from flows.commands import studying
from flows.commands.listing import remove_runs
from flows.errors import RecipeError
from flows.recipe.sweep_file import load_sweep
from flows.runs.record import start_run
from flows.runs.sweeps import SweepFolder, SweepRecord, SweepRun, left_out, require_same_file
from tests.unit.flows.test_sweep import points_of, written  # noqa: F401


def test_a_variants_name_is_no_path_and_no_setting_of_the_runs_name(written):  # noqa: F811
    names = ["größe & <b>100%</b>", "a|b_c", "x/y.json"]
    objectives = ["bnf", "dpo", "kto"]
    points = points_of(
        written(sweep={"variant": [{"name": n, "train.objective": o} for n, o in zip(names, objectives, strict=True)]})
    )
    assert [point.settings["variant"] for point in points] == names
    assert [point.recipe.name for point in points] == ["tuned-gr-e-b-100-b", "tuned-a-b-c", "tuned-x-y.json"]
    assert [point.label for point in points] == ["gr-e-b-100-b", "a-b-c", "x-y.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": None}, "base must be text, got nothing; write one$"),
        (
            {"base": "tuned.yaml"},
            r"base must be a recipe, got the sweep .*tuned\.yaml; name the recipe that it has as its base",
        ),
        ({"base": "."}, "base must be a recipe's file, got the folder"),
        ({"select": {"on": "dev", "by": "x", "over": ["seed"]}}, "select.by must be .*, got 'x'; write one of these$"),
        (
            {"select": {"on": "dev", "by": "eval_loss", "over": ["variant"]}},
            "select.over must leave out seed, over which the dev values are averaged, got variant, which sets it",
        ),
        (
            {"select": {"on": "dev", "by": "eval_loss", "over": ["train.max_steps", "train.max-steps"]}},
            "select.over must name each axis once, got train.max_steps twice",
        ),
    ],
)
def test_messages_of_a_sweeps_file_name_remedies_that_it_takes(written, change, message):  # noqa: F811
    axes = {"variant": [{"name": "a", "seed": 0}, {"name": "b", "seed": 1}], "train.max_steps": [1]}
    path = written(sweep=axes)
    values = yaml.safe_load(Path(path).read_text()) | change
    Path(path).write_text(yaml.safe_dump(values))
    with pytest.raises(RecipeError, match=message):
        load_sweep(path)
    del values["base"]
    Path(path).write_text(yaml.safe_dump(values))
    with pytest.raises(RecipeError, match="base must be given, got nothing; add it to the file"):
        load_sweep(path)


def record_of(file: Path, *runs: SweepRun) -> SweepRecord:
    return SweepRecord("tuned", str(file), "bnf sweep tuned.yaml", {"seed": [0, 1]}, None, list(runs))


def test_another_file_of_the_same_name_takes_no_sweeps_folder(tmp_path):
    first, other = tmp_path / "tuned.yaml", tmp_path / "other" / "tuned.yaml"
    other.parent.mkdir()
    for file, text in ((first, "a"), (other, "b")):
        file.write_text(text)
    folder = SweepFolder(tmp_path / "sweeps" / "tuned", record_of(first, SweepRun("tuned-0", {}, ["tuned-0-x"])))
    with pytest.raises(
        RecipeError, match=rf"name must be another than .*, got tuned, whose results are of {first}; write name="
    ):
        require_same_file(folder, other)
    require_same_file(None, other)
    require_same_file(folder, first)
    begun = replace(folder, record=record_of(first, SweepRun("tuned-0", {})))
    require_same_file(begun, other)
    other.write_text("a")  # a copy, as in another checkout
    require_same_file(folder, other)
    other.write_text("b")
    first.unlink()  # it was moved
    require_same_file(folder, other)


def test_the_runs_that_a_changed_file_leaves_out_are_named(tmp_path):
    before = [SweepRun(f"tuned-{number}", {"seed": number}, ["x"]) for number in range(4)]
    now = [before[0], SweepRun("tuned-1", {"seed": 9})]
    before[3].runs = []
    earlier = SweepFolder(tmp_path, record_of(tmp_path, *before))
    assert left_out(record_of(tmp_path, *now), earlier) == ["tuned-1", "tuned-2"]
    assert left_out(record_of(tmp_path, *now), None) == []


def test_a_sweep_is_no_run_to_be_dropped(tmp_path, monkeypatch, written):  # noqa: F811
    monkeypatch.setenv("BNF_HOME", str(tmp_path / "home"))
    run = start_run(tmp_path / "home", points_of(written(sweep={"seed": [0, 1]}))[0].recipe, "flow")
    run.end("completed")
    SweepFolder(tmp_path / "home" / "sweeps" / "tuned", record_of(tmp_path, SweepRun("tuned-seed0", {}, [run.id]))).save()
    with pytest.raises(
        RecipeError, match="RUN must be a run, got the sweep tuned; name its runs, which bnf runs --filter sweep=tuned"
    ):
        remove_runs(["tuned"], dry_run=False, yes=True, as_json=False)
    assert run.folder.is_dir()
    remove_runs([run.id], dry_run=False, yes=True, as_json=True)
    assert not run.folder.is_dir()


def test_a_page_is_written_of_a_named_study_with_a_result_alone(tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="NAME must be given with --write-page, got none"):
        studying.study(None, write_page=True, as_json=False)
    failed = SweepRun("tuned-0", {}, why="it ran out of memory")
    monkeypatch.setattr(studying.StudyResults, "read", lambda folder: object())
    monkeypatch.setattr(studying.sweep_study_page, "write", lambda *_: pytest.fail("it would replace a good page"))
    with pytest.raises(
        RecipeError, match="--write-page must have a run with a result, got none, as with tuned-0: it ran out of memory"
    ):
        studying._show(
            "tuned", "bnf study tuned", SweepFolder(tmp_path, record_of(tmp_path, failed)), write_page=True, as_json=False
        )


@pytest.mark.parametrize(
    "value",
    [
        "https://host/a.jsonl?sig=hunter2",
        "https://host/a.jsonl#access_token=hunter2",
        [{"source": "pairs", "path": "s3://b/a.jsonl?sig=hunter2"}],
    ],
)
def test_an_axis_shows_no_signature_of_a_url(written, value):  # noqa: F811
    key = "data" if isinstance(value, list) else "data.path"
    path = written(sweep={key: ["data/samples/pairs.jsonl", value]})
    with pytest.raises(
        RecipeError, match=rf"sweep\.{key} must have URLs without a password or a query.*set {key} in the variants"
    ) as refused:
        load_sweep(path)
    assert "hunter2" not in str(refused.value)
