"""What is computed again and what is not: after edits, damage, in a second home, and when two runs want the same."""

import json
import shutil
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from tests.e2e.conftest import Bnf

pytestmark = [pytest.mark.e2e]

WORDS = (
    *(
        "flows/recipes/pairs.yaml",
        "train.max_steps=1",
        "train.warmup_ratio=0",
        "evaluation.engine=transformers",
        "evaluation.max_new_tokens=8",
    ),
    "evaluation.benchmarks={number_comparison: {limit: 2}}",
)


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """An S3 server on loopback, as variables of a run that uses it."""
    server = ThreadedMotoServer(port=0)
    server.start()
    address, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    environment = {"AWS_ENDPOINT_URL": f"http://{address}:{port}", **keys, "BNF_STORE": "s3://bnf-store/artifacts"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        import fsspec

        fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True).mkdir("bnf-store")
    yield environment
    server.stop()


@pytest.fixture(scope="module")
def done(model, s3, shared_api, tmp_path_factory) -> Bnf:
    """A home with one finished run, whose artifacts the shared store has too."""
    bnf = Bnf(tmp_path_factory.mktemp("done"), PREFECT_API_URL=shared_api, **s3)
    bnf("run", *WORDS)
    return bnf


def states(bnf: Bnf, *words: str) -> dict[str, bool | None]:
    entries = bnf.json("plan", *WORDS, *words)["stages"]
    return {"/".join(filter(None, (e["stage"], e["model"], e["benchmark"]))): e["cached"] for e in entries}


def keys(bnf: Bnf) -> dict[str, str]:
    return {f"{e['stage']}/{e['model']}/{e['benchmark']}": e["key"] for e in bnf.json("plan", *WORDS)["stages"]}


def test_keys_are_the_same_under_another_hash_seed_folder_entry_point_and_checkout(done, checkout, tmp_path):
    expected = keys(done)
    assert all(states(done).values())
    for seed, where in (("1", done.checkout), ("2", checkout)):
        elsewhere = Bnf(tmp_path / seed, where, PYTHONHASHSEED=seed, BNF_HOME=str(done.home / "state"))
        elsewhere.home.mkdir()
        assert keys(elsewhere) == expected


def test_a_comment_changes_nothing_and_an_edit_reruns_what_uses_it_unless_it_is_kept(done, checkout, shared_api):
    edited = Bnf(done.home, checkout, PREFECT_API_URL=shared_api)
    objective = checkout / "bnf" / "objectives" / "bnf.py"
    source = objective.read_text()
    try:
        objective.write_text(source + "\n# A remark.\n")
        assert all(states(edited).values())
        objective.write_text(source + "\nUNUSED = 1\n")
        after = states(edited)
        assert after["reference"] is True and after["train"] is False and after["generate/base/number_comparison"] is True
        assert after["generate/aligned/number_comparison"] is None
        changed = next(e for e in edited.json("plan", *WORDS)["stages"] if e["stage"] == "train")["changed"]
        assert [change["key"] for change in changed] == ["code.bnf.objectives.bnf"]
        shown = edited.json("run", *WORDS, "--keep", "train")
        assert edited.executed(shown["run"]) == {"report"}
        assert shown["tasks"]["train"]["other_code"] == ["bnf.objectives.bnf"]
        stages = {stage["stage"]: stage["other_code"] for stage in shown["summary"]["stages"]}
        assert stages["train"] == ["bnf.objectives.bnf"] and stages["reference"] == []
        assert "other code" in (Path(shown["folder"]) / "report.html").read_text()
        edited("run", *WORDS, "train.learning_rate=1.0e-3", "--keep", "train", code=2)
        assert "--keep train must find an artifact that differs in code alone, got" in edited.err
        assert "settings.learning_rate" in edited.err
    finally:
        objective.write_text(source)


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ("evaluation.max_new_tokens=9", {"generate/base/number_comparison", "generate/aligned/number_comparison"}),
        ("train.learning_rate=3.0e-5", {"train"}),
        ("train.max_tokens_per_row=300", {"reference", "train", "analyze"}),
        ("train.save_steps=7", set()),
    ],
)
def test_a_setting_reruns_the_stages_that_read_it(done, change, first):
    after = states(done, change)
    # The report shows the recipe.
    assert {name for name, cached in after.items() if cached is False} - {"report"} == first


def test_a_second_machine_with_the_same_store_computes_nothing(done, s3, tmp_path):
    second = Bnf(tmp_path, **s3)
    with second.served():
        shown = second.json("run", *WORDS)
        # A model's folder is a matter of the machine.
        assert second.executed() == {"resolve/base"}
        assert shown["summary"]["benchmarks"] == done.json("show", "latest")["summary"]["benchmarks"]
        assert (Path(shown["folder"]) / "report.html").exists()
        # Nothing asked for the policy's weights here.
        assert not list((tmp_path / "state" / "artifacts" / "train").glob("*/policy"))
        # An evaluation does: it brings them.
        second("evaluate", "latest", "evaluation.max_new_tokens=4")
    assert list((tmp_path / "state" / "artifacts" / "train").glob("*/policy/*.safetensors"))


def test_homes_do_not_know_each_other(done, tmp_path):
    assert not any(states(Bnf(tmp_path)).values())


@pytest.mark.parametrize(
    ("damage", "options"),
    [
        pytest.param("truncate", (), marks=pytest.mark.nightly),
        pytest.param("delete", (), marks=pytest.mark.nightly),
        ("alter", ("--verify",)),
    ],
)
def test_a_damaged_artifact_is_noticed_and_made_anew(done, shared_api, tmp_path, damage, options):
    shutil.copytree(done.home / "state", tmp_path / "state", symlinks=True, ignore=shutil.ignore_patterns("prefect"))
    bnf = Bnf(tmp_path, PREFECT_API_URL=shared_api)
    [groups] = (tmp_path / "state" / "artifacts" / "prepare").glob("*/groups.jsonl")
    content = groups.read_bytes()
    if damage == "delete":
        groups.unlink()
    else:
        groups.write_bytes(content[:-1] + (b"" if damage == "truncate" else b"\0"))
    bnf("run", *WORDS, *options)
    assert "prepare: not used, made anew: " in bnf.err and "groups.jsonl" in bnf.err
    # The same bits again: nothing after it runs.
    assert bnf.executed() == {"prepare"} and groups.read_bytes() == content


# The next test has two runs at once, too.
@pytest.mark.nightly
def test_two_runs_at_once_compute_what_both_need_once(done, tmp_path):
    bnf = Bnf(tmp_path)
    words = ("run", *WORDS, "--only", "prepare,reference", "--json")
    both = [bnf.process(*words) for _ in range(2)]
    outputs = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    tasks = [json.loads(out)["tasks"] for out, _ in outputs]
    for name in ("prepare", "reference"):
        assert sorted(run[name]["cached"] for run in tasks) == [False, True], name
        assert tasks[0][name]["fingerprint"] == tasks[1][name]["fingerprint"]
    assert "database is locked" not in (tmp_path / "state" / "prefect" / "server.log").read_text()


def test_two_runs_in_other_orders_do_not_wait_for_each_other_for_ever(model, tmp_path):
    """Each holds a key that the other wants next, and one of them the accelerator."""
    bnf = Bnf(tmp_path)
    asked = ["gsm8k: {source: sample, limit: 2}", "number_comparison: {limit: 2}"]
    words = ("evaluate", str(model), "evaluation.engine=transformers", "evaluation.max_new_tokens=8", "--json")
    both = [bnf.process(*words, f"evaluation.benchmarks={{{', '.join(order)}}}") for order in (asked, asked[::-1])]
    outputs = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    tasks = [json.loads(out)["tasks"] for out, _ in outputs]
    for name in ("generate/base/gsm8k", "generate/base/number_comparison"):
        assert sorted(run[name]["cached"] for run in tasks) == [False, True], name
        assert tasks[0][name]["fingerprint"] == tasks[1][name]["fingerprint"]
    # Waiting for the accelerator is no error.
    assert not any("ERROR" in err for _, err in outputs)
    assert "database is locked" not in (tmp_path / "state" / "prefect" / "server.log").read_text()


def test_gc_drops_what_no_run_names_and_nothing_else(done, tmp_path):
    shutil.copytree(done.home / "state", tmp_path / "state", symlinks=True, ignore=shutil.ignore_patterns("prefect"))
    bnf = Bnf(tmp_path)
    listed = bnf.json("runs")["runs"]
    assert all(run["bytes"] > 2e8 for run in listed)
    for path in (tmp_path / "state" / "artifacts").rglob("*.work"):
        shutil.rmtree(path)
    assert bnf.json("gc", "--dry-run")["dropped"] == []
    for run in listed:
        shutil.rmtree(tmp_path / "state" / "runs" / run["run"])
    planned = bnf.json("gc", "--dry-run")
    assert planned["bytes"] > 2e8 and all(states(bnf).values())
    assert bnf.json("gc")["dropped"] == planned["dropped"]
    assert not any(states(bnf).values())
    assert not list((tmp_path / "state" / "artifacts").glob("*/*.json"))
