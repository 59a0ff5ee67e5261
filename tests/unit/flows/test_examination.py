"""`plan`, `doctor` and `run` find the same faults, before anything runs."""

import contextlib
import hashlib
import json
from types import SimpleNamespace

import fsspec
import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from evaluation.bundle import Bundle, Part, part_key, url_name, write_bundle
from flows.commands import planning, running
from flows.commands.doctor import diagnose
from flows.dag import hub
from flows.dag.selection import Options
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from tasks.keys import ROOT

MODEL = "models/SmolLM2-135M-Instruct"
pytestmark = pytest.mark.skipif(not (ROOT / MODEL).exists(), reason="the demonstration model is not there; run `make env`")


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


FILES = {
    "thumbs": lines({"prompt": "p", "completion": "a", "label": True}, {"prompt": "q", "completion": "b", "label": False}),
    "shared": lines({"prompt": "p", "completion": "a", "label": True}, {"prompt": "p", "completion": "b", "label": False}),
    "ratings": lines({"prompt": "p", "completions": ["a", "b"], "ratings": [1, 2]}),
    "equal": lines({"prompt": "p", "completions": ["a", "b"], "ratings": [2, 2]}),
    "pairs": lines({"prompt": "p", "chosen": "a", "rejected": "b"}),
    "scored": lines({"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 2, "score_rejected": 1}),
    "prompts": lines({"prompt": "p"}),
}
THUMBS, SHARED, RATINGS, EQUAL, PAIRS, SCORED, PROMPTS = (
    {"source": source, "path": f"{name}.jsonl"}
    for name, source in zip(FILES, ("thumbs", "thumbs", "ratings", "ratings", "pairs", "pairs", "prompts"), strict=True)
)
DPO, ALL = {"objective": "dpo"}, {"pairing": "all"}
NO_PAIRS = "thumbs hold no pairs"


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / f"{name}.jsonl").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BNF_HOME", str(tmp_path / "home"))
    hub.ask.cache_clear()
    yield tmp_path
    hub.ask.cache_clear()


def found(recipe, tmp_path, capsys):
    """The problems that plan, run and doctor say, after checking that they are the same."""
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    made = make_recipe(recipe)
    said = []
    for command in (
        lambda: planning.show_plan(made, Options(), as_json=True),
        lambda: running.run_recipe(made, Options()),
    ):
        try:
            command()
        except RecipeError as error:
            said.append(str(error))
        except SystemExit as ended:  # nothing is wrong: the run has begun
            assert ended.code == "begun"
            said.append("")
        else:
            said.append("")
    planned = json.loads(capsys.readouterr().out)["problems"]
    with contextlib.suppress(SystemExit):
        diagnose(str(tmp_path / "r.yaml"), (), offline=False, as_json=True)
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert said[0] == said[1] == "\n".join(planned)
    assert planned == list(dict.fromkeys(check["problem"] for check in checks if check["problem"]))
    return planned


@pytest.mark.parametrize(
    ("data", "prepare", "train", "problem"),
    [
        (PAIRS, {}, DPO, "prepare.pairing must be best_worst or all for dpo, got none"),
        (PAIRS, ALL, DPO, None),
        (THUMBS, {}, {}, None),
        (THUMBS, {}, DPO, NO_PAIRS),
        (THUMBS, ALL, DPO, NO_PAIRS),
        (THUMBS, {"pairing": "best_worst"}, {"objective": "simpo"}, NO_PAIRS),
        (SHARED, {}, DPO, NO_PAIRS),
        (SHARED, ALL, DPO, None),
        ([PAIRS, THUMBS], {}, DPO, NO_PAIRS),
        ([PAIRS, THUMBS], ALL, DPO, NO_PAIRS),
        ([PAIRS, SHARED], ALL, DPO, None),
        (RATINGS, {}, DPO, "prepare.pairing must be best_worst or all for dpo, got none"),
        (RATINGS, ALL, DPO, None),
        (RATINGS, {**ALL, "ratings": {"threshold": 5}}, DPO, "ratings hold no pairs"),
        (EQUAL, ALL, DPO, "ratings hold no pairs"),
        (PAIRS, {}, {"length_normalization": "pair_min"}, "prepare.pairing must be best_worst or all for pair_min"),
        (THUMBS, ALL, {"length_normalization": "pair_min"}, NO_PAIRS),
        (PAIRS, {"mask_fraction": 0.5}, {}, None),
        (THUMBS, {"mask_fraction": 0.5}, {}, "prepare.mask_fraction must have pairs to mask, got thumbs"),
        (RATINGS, {"mask_to_chosen": 0.5}, {}, "prepare.mask_to_chosen must have pairs to mask, got ratings"),
        (RATINGS, {**ALL, "mask_to_chosen": 0.5}, {}, None),
        (PAIRS, {**ALL, "mask_fraction": 0.5}, DPO, "prepare.mask_fraction must be 0 for dpo, which needs pairs, got 0.5"),
        (PAIRS, {}, {"objective": "rwr"}, "train.objective=rwr must have scores, got"),
        (THUMBS, {}, {"objective": "rwr"}, "train.objective=rwr must have scores, got"),
        (SCORED, {}, {"objective": "rwr"}, None),
        (RATINGS, {}, {"objective": "best_of_n"}, None),
        (PROMPTS, {}, {}, "data.source must give preferences, got prompts"),
        (PAIRS, {}, {"report_to": "clearml"}, "train.report_to=clearml must have the package clearml"),
    ],
)
def test_what_the_data_do_not_give_is_found_by_all(home, capsys, monkeypatch, data, prepare, train, problem):
    monkeypatch.setattr(running, "set_prefect_environment", begin)
    recipe = {"name": "r", "model_name_or_path": MODEL, "data": data, "prepare": prepare, "train": train}
    problems = found(recipe, home, capsys)
    assert not problems if problem is None else any(problem in one for one in problems), problems


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"revision": "main"}, "revision must be left out for a folder, got 'main' for "),
        ({"data": {**PAIRS, "revision": "main"}}, "data.revision must be left out for files, got main for "),
        ({"data": {**PAIRS, "streaming": True}}, "data.streaming must be left out for files, got true for "),
    ],
)
def test_what_only_a_hub_has_is_refused_of_what_lies_here(home, capsys, monkeypatch, changes, problem):
    monkeypatch.setattr(running, "set_prefect_environment", begin)
    [told] = found({"name": "r", "model_name_or_path": MODEL, "data": PAIRS, "train": {}, **changes}, home, capsys)
    assert problem in told


def begin(*args, **kwargs):
    raise SystemExit("begun")


def test_samples_have_no_pairs_to_mask_without_pairing(home, capsys, monkeypatch):
    monkeypatch.setattr(running, "set_prefect_environment", begin)
    recipe = {
        **{"name": "r", "model_name_or_path": MODEL, "train": {}, "label": {}},
        "sample": {"source": "number_comparison", "num_prompts": 2},
        "prepare": {"mask_fraction": 0.5},
    }
    assert any("must have pairs to mask, got samples" in problem for problem in found(recipe, home, capsys))
    assert found({**recipe, "prepare": {**ALL, "mask_fraction": 0.5}}, home, capsys) == []


UNREACHED = OSError("Name or service not known")


def answer(status):
    request = httpx.Request("GET", "http://hub")
    return HfHubHTTPError(f"{status} of the hub", response=httpx.Response(status, request=request))


def say(monkeypatch, model, files=None):
    """Have the hub say this of every model and set: an error, or its files."""

    def info(self, name, **kwargs):
        if isinstance(model, Exception):
            raise model
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name, size=size) for name, size in model.items()])

    def cached(name, **kwargs):
        if files is None:
            raise LocalEntryNotFoundError("not in the cache")
        return str(files)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)


@pytest.mark.parametrize(
    ("said", "problem", "seen"),
    [
        (UNREACHED, "the hub wasn't reached (OSError: Name or service not known), and this machine's cache has none", ""),
        (answer(404), "the hub doesn't give it (HfHubHTTPError: 404 of the hub), and this machine's cache has none", ""),
        (answer(503), None, "the hub is busy; it is asked again when the stage runs"),
        ({"config.json": 1, "tokenizer_config.json": 1, "model.safetensors": 1 << 30}, None, "1.00 GiB of weights, on the hub"),
        ({"config.json": 1, "tokenizer_config.json": 1, "pytorch_model.bin": 9}, "it has no safetensors weights", ""),
    ],
)
def test_a_hub_model_is_asked_for_before_anything_runs(home, capsys, monkeypatch, said, problem, seen):
    say(monkeypatch, said)
    monkeypatch.setattr(running, "set_prefect_environment", begin)
    monkeypatch.setattr("flows.dag.preflight.available_memory", lambda: 1 << 33)
    recipe = {"name": "r", "model_name_or_path": "someone/model", "data": PAIRS, "train": {}}
    problems = found(recipe, home, capsys)
    diagnosed = {check["name"]: check for check in checks_of(home, capsys)}
    if problem is None:
        assert problems == [] and diagnosed["model someone/model"]["seen"] == seen
    else:
        [told] = problems
        assert told.startswith("model_name_or_path must be a folder or a hub id that can be fetched, got 'someone/model': ")
        assert problem in told
    # What isn't known is not 0.0 GiB.
    known = isinstance(said, dict) and "model.safetensors" in said
    assert diagnosed["memory"]["seen"] == ("8.0 GiB free, 8.0 GiB for weights" if known else diagnosed["memory"]["seen"])
    assert known or isinstance(said, dict) or "unknown" in diagnosed["memory"]["seen"]


def checks_of(home, capsys, *, offline=False):
    with contextlib.suppress(SystemExit):
        diagnose(str(home / "r.yaml"), (), offline=offline, as_json=True)
    return json.loads(capsys.readouterr().out)["checks"]


def test_a_hub_model_in_the_cache_needs_no_hub(home, capsys, monkeypatch):
    say(monkeypatch, UNREACHED, ROOT / MODEL)
    monkeypatch.setattr(running, "set_prefect_environment", begin)
    recipe = {"name": "r", "model_name_or_path": "someone/model", "data": PAIRS, "train": {}}
    assert found(recipe, home, capsys) == []
    [model] = [check for check in checks_of(home, capsys) if check["name"] == "model someone/model"]
    assert "in this machine's cache" in model["seen"] and "GiB of weights" in model["seen"]


def test_sets_of_the_hub_are_asked_for_too(home, capsys, monkeypatch):
    say(monkeypatch, UNREACHED)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(home / "sets"))
    monkeypatch.setattr(running, "set_prefect_environment", begin)
    recipe = {
        **{"name": "r", "model_name_or_path": MODEL, "train": {}},
        "data": {"source": "thumbs", "path": "someone/MyThumbs"},
        "evaluation": {"benchmarks": {"gsm8k": {}}},
    }
    data, benchmark = found(recipe, home, capsys)
    assert data.startswith("data.path must be a data set that the hub gives, got 'someone/MyThumbs': the hub wasn't reached")
    assert benchmark.startswith("evaluation.benchmarks.gsm8k.source must be a data set that the hub gives, got 'openai/gsm8k'")
    for name in ("someone___my_thumbs", "openai___gsm8k"):
        (home / "sets" / name).mkdir(parents=True)
    hub.ask.cache_clear()
    assert found(recipe, home, capsys) == []


def test_a_benchmark_that_no_hub_has_must_have_its_file(home, capsys, monkeypatch):
    monkeypatch.setattr(running, "set_prefect_environment", begin)
    judge = {"model_name_or_path": MODEL, "benchmarks": {"arena_hard": {}}}
    recipe = {"name": "r", "model_name_or_path": MODEL, "data": PAIRS, "train": {}, "judge": judge}
    [problem] = found(recipe, home, capsys)
    assert problem.startswith("judge.benchmarks.arena_hard.source must be a file, got none; give upstream's")


def test_what_is_cached_is_not_checked_and_a_plan_exits_with_what_is_wrong(home, capsys):
    recipe = make_recipe({"name": "r", "model_name_or_path": MODEL, "data": THUMBS, "train": DPO})
    with pytest.raises(RecipeError, match=NO_PAIRS):
        planning.show_plan(recipe, Options(), as_json=False)
    printed = capsys.readouterr().out
    assert "to run" in printed and "0 cached" in printed


def test_doctor_sees_a_home_that_cannot_be_written_without_a_recipe_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BNF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(SystemExit):
        diagnose(None, (), offline=False, as_json=True)
    checks = {check["name"]: check["problem"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["home"].startswith(f"BNF_HOME must be a folder that can be written, got {tmp_path / 'home'}")


def test_what_a_bundle_has_of_a_url_lies_here(home, capsys, monkeypatch):
    url, content = "memory://doctor/a.jsonl?sig=hunter2", FILES["thumbs"].encode()
    fsspec.filesystem("memory").pipe("/doctor/a.jsonl?sig=hunter2", content)
    recipe = {"name": "r", "model_name_or_path": MODEL, "data": {"source": "thumbs", "path": url}, "train": {}}
    (home / "r.yaml").write_text(json.dumps(recipe))
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")  # `--offline` sets them for the rest of the process

    def said():
        [check] = [check for check in checks_of(home, capsys, offline=True) if check["name"] == "offline: prepare"]
        assert "hunter2" not in json.dumps(check)
        return check

    elsewhere = "prepare must read what lies here offline, got memory://doctor/a.jsonl?…; name a file, or a local engine"
    assert said()["problem"] == elsewhere
    file = home / "bundle" / "urls" / "1" / "a.jsonl"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    whole = {"": (len(content), hashlib.sha256(content).hexdigest())}
    part = Part("url", url_name(url), "v1", ["main"], "", "urls/1/a.jsonl", whole)
    write_bundle(Bundle(home / "bundle", {part_key("url", part.name, "v1"): part}))
    monkeypatch.setenv("BNF_OFFLINE", str(home / "bundle"))
    assert said() == {**said(), "problem": None, "seen": "memory://doctor/a.jsonl?…, in the bundle, at version v1"}
    # What it lacks is said beside what was seen of the machine.
    other = {**recipe, "data": {**recipe["data"], "path": "memory://doctor/b.jsonl"}}
    (home / "r.yaml").write_text(json.dumps(other))
    found = {check["name"]: check["problem"] for check in checks_of(home, capsys, offline=True)}
    assert "memory://doctor/b.jsonl" in found["recipe r"] and found["home"] is None
    (home / "r.yaml").write_text(json.dumps(recipe))
    file.write_bytes(content[:-1])
    assert f"of {len(content) - 1} bytes instead of {len(content)}; fetch it again" in said()["problem"]
