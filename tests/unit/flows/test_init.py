"""`bnf init` writes recipes that a run takes as they are: whatever the data, the objective and the judge."""

import json
import re

import pytest
from jsonschema import Draft7Validator
from typer.testing import CliRunner

from bnf.plain_yaml import read
from data.looking import look
from evaluation.formats import visible
from flows.cli import app
from flows.commands import initializing
from flows.dag.plan import make_plan
from flows.dag.preflight import problems
from flows.dag.selection import Options
from flows.errors import RecipeError
from flows.recipe.config import load_recipe
from flows.recipe.schema import schema
from flows.recipe.writing import Wanted, about, recipe_text, written
from tasks.keys import ROOT
from tests.disks import full
from tests.unit.data.helpers import write_rows

MODEL = "models/SmolLM2-135M-Instruct"
pytestmark = pytest.mark.skipif(not (ROOT / MODEL).exists(), reason="the demonstration model is not there; run `make env`")

PAIRS = [{"prompt": f"{n}?", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(30)]
OTHER_NAMES = [{"question": f"{n}?", "good": "yes", "bad": "no", "note": f"by hand, {n}"} for n in range(30)]
ANSWERS = [{"question": f"{n}?", "good_answer": "yes", "Response-Rejected": "no", "ticket": n} for n in range(30)]
THUMBS = [{"prompt": f"{n}?", "completion": f"yes {n}", "label": n % 3 > 0} for n in range(30)]
RATINGS = [{"prompt": f"{n}?", "completions": ["yes", "no", "well"], "ratings": [5, 1, 3]} for n in range(30)]
SCORED = [{**row, "metadata": {"score_chosen": 8.5, "score_rejected": 3}} for row in PAIRS]


VOTES = [
    {
        "conversation_a": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "yes"}],
        "conversation_b": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "no"}],
        "winner": ("model_a", "model_b", "tie")[n % 3],
    }
    for n in range(30)
]
ON_REPLIES = [
    {"prompt": f"{n}?", "response_a": "yes", "response_b": "no", "winner": ("a", "b", "tie")[n % 3]} for n in range(30)
]
VOTERS = dict.fromkeys(("annotator1", "annotator2", "annotator3"), 2)
JUDGED = [{"idx": n, "instruction": f"{n}?", "input": "", "response1": "a", "response2": "b", **VOTERS} for n in range(30)]
STARS = [{"question": f"{n // 2}?", "answer": f"yes {n}", "stars": n % 5} for n in range(30)]
HELPFUL = [{"prompt": f"{n // 2}?", "response": f"yes {n}", "helpfulness": n % 5, "correctness": 3} for n in range(30)]
GRADED = [
    {"instruction": f"{n}?", "completions": [{"response": "4", "overall_score": 8.5}, {"response": "5", "overall_score": 3}]}
    for n in range(30)
]
SPOKEN = [{"chosen": f"\n\nHuman: {n}\n\nAssistant: Yes", "rejected": f"\n\nHuman: {n}\n\nAssistant: No"} for n in range(30)]


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("BNF_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def init(*words, **answers):
    result = CliRunner().invoke(app, ["init", *words], **answers)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def passes(tmp_path, name):
    """The recipe, which a run would take."""
    recipe = load_recipe(str(tmp_path / name))
    assert problems(make_plan(tmp_path / "home", recipe, Options()).checks) == []
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert [error.message for error in Draft7Validator(schema()).iter_errors(read(text, name))] == []
    assert all(len(line) <= 140 for line in text.splitlines()[1:])
    return recipe


@pytest.mark.parametrize(
    ("rows", "options", "source", "said"),
    [
        (PAIRS, [], "pairs", "30 of 30 rows, 30 prompts; also possible: simpo"),
        (PAIRS, ["--objective", "dpo", "--limit", "7", "--system-prompt", 'Say "yes": or no.\nNothing else.'], "pairs", ""),
        (OTHER_NAMES, ["--objective", "simpo"], "pairs", "with prompt: question, chosen: good, rejected: bad: 30 of 30 rows"),
        (ANSWERS, [], "pairs", "with prompt: question, chosen: good_answer, rejected: Response-Rejected: 30 of 30 rows"),
        (THUMBS, ["--objective", "kto", "--engine", "transformers"], "thumbs", "read as thumbs: 30 of 30 rows"),
        (RATINGS, ["--objective", "best-of-n", "--judge", MODEL], "ratings", "read as ratings"),
        (RATINGS, ["--objective", "orpo", "--benchmarks", "number-comparison,crux"], "ratings", ""),
        (SCORED, ["--source", "pairs"], "pairs", "read as pairs"),
        (VOTES, ["--objective", "dpo"], "arena", "read as arena: 30 of 30 rows, 30 prompts"),
        (ON_REPLIES, [], "votes", "read as votes: 30 of 30 rows, 30 prompts"),
        (JUDGED, [], "pandalm", "read as pandalm: 30 of 30 rows"),
        (
            STARS,
            [],
            "helpsteer",
            "read as helpsteer with prompt: question, completion: answer, rating: stars: 30 of 30 rows, 15",
        ),
        (HELPFUL, [], "helpsteer", "read as helpsteer: 30 of 30 rows, 15 prompts"),
        (GRADED, [], "ultrafeedback_ratings", "read as ultrafeedback_ratings: 30 of 30 rows"),
        (SPOKEN, [], "hh_rlhf", "read as hh_rlhf: 30 of 30 rows"),
    ],
)
def test_every_recipe_that_it_writes_is_one_that_a_run_takes(tmp_path, rows, options, source, said):
    write_rows(tmp_path / "my data.jsonl", rows)
    output = init("mine.yaml", "--data", "my data.jsonl", *options)
    recipe = passes(tmp_path, "mine.yaml")
    assert recipe.sources()[0].source == source and said in output
    assert output.splitlines()[-1].startswith("next: bnf run mine.yaml")
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert recipe.train["objective"] == given.get("--objective", "bnf").replace("-", "_")
    assert recipe.system_prompt == given.get("--system-prompt")
    assert str(recipe.data.limit) == given.get("--limit", "None")
    assert recipe.evaluation.engine == given.get("--engine", recipe.evaluation.engine)
    assert (recipe.judge is not None) == ("--judge" in given)


@pytest.mark.parametrize(("rows", "shown"), [(PAIRS, "objective: dpo"), (RATINGS, "# ratings: {"), (VOTES, "# ties: both")])
def test_each_of_its_comments_that_is_a_key_may_be_set(tmp_path, rows, shown):
    write_rows(tmp_path / "my.jsonl", rows)
    init("--data", "my.jsonl", "--objective", "dpo")
    text = (tmp_path / "my.yaml").read_text(encoding="utf-8")
    keys = re.findall(r"^ *# \w+:.*$", text, re.M)
    assert len(keys) >= 7 and shown in text
    for key in keys:
        if not key.startswith("# judge"):
            load_recipe(str(write_text(tmp_path / "set.yaml", text.replace(key, key.replace("# ", "", 1)))))
    load_recipe(str(write_text(tmp_path / "set.yaml", re.sub(r"^# (?=judge:)|^#(?=   )", "", text, flags=re.M))))


def write_text(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_it_asks_where_there_are_no_options_and_asks_again_for_what_cannot_be(tmp_path, monkeypatch):
    monkeypatch.setattr(initializing, "_has_terminal", lambda: True)
    write_rows(tmp_path / "votes.jsonl", SCORED)
    answers = ["nowhere.jsonl", "votes.jsonl", "pairs", "", "ddpo", "ipo", "gsm9k", "gsm8k", "", ""]
    output = init(input="\n".join(answers) + "\n")
    assert "nowhere.jsonl must exist, got no such file or folder" in output and "did you mean dpo or cdpo or dpop?" in output
    assert "read as ultrafeedback: 30 of 30 rows, 30 prompts; also possible: pairs" in output
    recipe = passes(tmp_path, "votes.yaml")
    assert (recipe.data.source, recipe.train["objective"]) == ("pairs", "ipo")
    assert list(recipe.evaluation.benchmarks) == ["gsm8k"] and recipe.judge is None


def test_with_options_and_without_a_terminal_it_never_asks(tmp_path):
    with pytest.raises(RecipeError, match=r"--data must say where the preferences lie where there is no terminal"):
        init()
    with pytest.raises(RecipeError, match=r"--data must say where the preferences lie, got nothing; add --data FILE"):
        init("--objective", "dpo")


def test_a_recipe_that_is_there_is_not_written_over(tmp_path, capsys):
    write_rows(tmp_path / "my.jsonl", PAIRS)
    write_text(tmp_path / "my.yaml", "mine")
    for words in ([], ["my.yaml"]):
        with pytest.raises(RecipeError, match=r"RECIPE must be a new file, got .*my.yaml, which is there; name another"):
            init(*words, "--data", "my.jsonl")
    assert "rows" not in capsys.readouterr().out, "the data are not looked at first"
    assert (tmp_path / "my.yaml").read_text() == "mine"
    with pytest.raises(RecipeError, match=r"RECIPE must be a new file FILE.yaml, got 'my.jsonl'"):
        init("my.jsonl", "--data", "my.jsonl")


def test_on_a_full_disk_it_leaves_no_empty_recipe(tmp_path):
    write_rows(tmp_path / "my.jsonl", PAIRS)
    (tmp_path / "disk").mkdir()
    with full(tmp_path / "disk"):
        for _ in range(2):
            with pytest.raises(
                RecipeError, match=r"RECIPE must be a file that can be written, got .*my.yaml \(No space left on device\)"
            ):
                init("disk/my.yaml", "--data", "my.jsonl")
        assert not (tmp_path / "disk" / "my.yaml").exists()


def test_paths_mean_the_same_where_the_recipe_lies_elsewhere(tmp_path):
    write_rows(tmp_path / "my.jsonl", PAIRS)
    init("recipes/mine.yaml", "--data", "my.jsonl")
    text = (tmp_path / "recipes" / "mine.yaml").read_text()
    assert f"path: {tmp_path}/my.jsonl" in text and f"model_name_or_path: {MODEL}\n" in text


def test_what_no_source_reads_is_refused_with_what_was_seen(tmp_path):
    write_rows(tmp_path / "my.jsonl", [{"a": 1, "b": "text"}])
    with pytest.raises(
        RecipeError, match=r"--data must hold preferences .* with columns a, b \(pairs: line 1: must have chosen"
    ):
        init("--data", "my.jsonl")
    with pytest.raises(
        RecipeError, match=r"such as data: \{source: pairs, path: my.jsonl, columns: \{prompt: NAME, chosen: NAME,"
    ):
        init("--data", "my.jsonl")
    write_rows(tmp_path / "ok.jsonl", PAIRS)
    write_rows(tmp_path / "near.jsonl", [{"question": "a?", "answer": "b", "thumbs_up": 1}])
    with pytest.raises(
        RecipeError,
        match=r"\(thumbs with prompt: question, completion: answer, label: thumbs_up: line 1: thumbs_up must be true or false, got 1",
    ):
        init("--data", "near.jsonl")
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": "a?"}])
    with pytest.raises(RecipeError, match=r"prompts alone are sampled from: sample: \{source: prompts, path: prompts.jsonl\}"):
        init("--data", "prompts.jsonl")
    with pytest.raises(RecipeError, match=r"that the source thumbs reads, got ok.jsonl"):
        init("--data", "ok.jsonl", "--source", "thumbs")
    with pytest.raises(RecipeError, match=r"--source must say what the data set some/set of a hub is"):
        init("--data", "some/set")
    with pytest.raises(
        ValueError, match=r"--data must hold no user and password, .* got a URL that does; leave them out and set"
    ):
        init("--data", "https://me:hunter2@127.0.0.1:9/my.jsonl")
    (tmp_path / "other.jsonl").write_text("{}", encoding="utf-16")
    with pytest.raises(RecipeError, match=r"must be UTF-8, got .*other\.jsonl, which is UTF-16"):
        init("--data", "other.jsonl")
    assert not list(tmp_path.glob("*.yaml"))


def test_a_recipe_that_its_run_would_refuse_is_written_and_says_so(tmp_path):
    write_rows(tmp_path / "my.jsonl", THUMBS)
    with pytest.raises(
        RecipeError, match=r"my.yaml is written, and a run would refuse it as it is:\n  train.objective=dpo must have"
    ):
        init("--data", "my.jsonl", "--objective", "dpo")
    assert load_recipe(str(tmp_path / "my.yaml")).train["objective"] == "dpo"


def test_looking_counts_rows_and_prefers_the_source_that_reads_most_of_the_columns(tmp_path):
    seen = look(str(write_rows(tmp_path / "p.jsonl", SCORED * 20)))
    assert (seen.kind, seen.num_rows, seen.more, seen.num_read) == ("JSON Lines", 600, False, 200)
    assert seen.columns == ["prompt", "chosen", "rejected", "metadata"]
    assert [one.source for one in seen.readings][:2] == ["ultrafeedback", "pairs"] and seen.readings[0].num_scores == 400
    (tmp_path / "a.json").write_text(
        json.dumps([{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}])
    )
    seen = look(str(tmp_path / "a.json"))
    assert seen.kind == "JSON" and [one.source for one in seen.readings] == ["hh_rlhf", "implicit_pairs"]


def test_a_judge_at_an_endpoint_and_a_set_of_a_hub_are_written_as_a_recipe_has_them(tmp_path):
    wanted = Wanted(
        "meta-llama/Llama-3.2-1B-Instruct",
        "some/set",
        "pairs",
        "pairs",
        split="train_prefs",
        judge="gpt-x",
        judge_is_remote=True,
    )
    text = recipe_text(wanted, tmp_path / "mine.yaml")
    recipe = load_recipe(str(write_text(tmp_path / "mine.yaml", text)))
    assert (recipe.judge.engine, recipe.judge.model, recipe.data.split) == ("openai", "gpt-x", "train_prefs")
    assert (
        recipe.train["learning_rate"] == 5e-7 and recipe.train["global_batch_size"] == 128 and not recipe.evaluation.benchmarks
    )
    capped = load_recipe(
        str(write_text(tmp_path / "mine.yaml", re.sub(r"^# (?=spending:)|^#(?=   max_usd)", "", text, flags=re.M)))
    )
    assert capped.spending.max_usd == 5


@pytest.mark.parametrize(
    "text",
    [
        *("plain", "a b", "null", "1e5", "yes: no", "# no", "{x}", "it's", 'say "x"', "a\nb", "é", "- x", ""),
        *("a\u2028b", "\x85\x9b\x7f", "\ufeff\U000e0001", "👩\u200d🚀"),
    ],
)
def test_a_text_is_written_so_that_it_is_read_back(text):
    assert read(f"key: {written(text)}  # and a comment", "") == {"key": text}
    assert read(f"{{key: {written(text)}, other: 1}}", "") == {"key": text, "other": 1}


def test_a_columns_name_stays_in_its_comment():
    hostile = about("x.jsonl", "JSON Lines", "3", ["a", *(f"a{end}seed: 7" for end in "\n\r\x85\u2028\u2029")])
    assert read(f"# {hostile}\nseed: 1", "") == {"seed": 1} and visible(hostile) == hostile


@pytest.mark.parametrize("number", [1e-5, 5e-7, 0.05, 2.5e-6, 16, True, None, 0.1, 1e-10])
def test_a_number_is_written_so_that_it_is_read_back(number):
    assert read(f"key: {written(number)}", "") == {"key": number}


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("my data (v2).jsonl", "my-data-v2.yaml"),
        ("-dash.jsonl", "dash.yaml"),
        ("größe: a.jsonl", "gr-e-a.yaml"),
        ("latest.jsonl", "recipe.yaml"),
        ("x" * 150 + ".jsonl", "x" * 100 + ".yaml"),
    ],
)
def test_the_recipe_that_it_proposes_has_a_name_that_runs_may_have(tmp_path, name, recipe):
    write_rows(tmp_path / name, PAIRS[:3])
    init(f"--data={name}")
    assert load_recipe(str(tmp_path / recipe)).name == recipe.removesuffix(".yaml")


def test_a_name_that_runs_cannot_have_and_data_without_rows_are_refused(tmp_path):
    write_rows(tmp_path / "my.jsonl", PAIRS[:3])
    with pytest.raises(
        RecipeError, match=r"RECIPE must be called by letters, .* got 'sub/my data.yaml'; write sub/my-data.yaml"
    ):
        init("sub/my data.yaml", "--data", "my.jsonl")
    for name, text in (("empty.jsonl", ""), ("list.json", "[]"), ("head.csv", "prompt,chosen,rejected\n")):
        write_text(tmp_path / name, text)
        with pytest.raises(RecipeError, match=f"--data must hold rows, got {name} with none"):
            init("--data", name)
    (tmp_path / "other.jsonl").write_text("{}", encoding="utf-16")
    with pytest.raises(RecipeError, match=r"must be UTF-8, got .*other\.jsonl, which is UTF-16"):
        init("--data", "other.jsonl")
    assert not list(tmp_path.glob("*.yaml"))


@pytest.mark.parametrize("none", ["none", "None", ""])
def test_without_benchmarks_and_judge_it_writes_none(tmp_path, monkeypatch, none):
    write_rows(tmp_path / "my.jsonl", PAIRS)
    init("--data", "my.jsonl", "--benchmarks", none, "--judge", none)
    recipe = passes(tmp_path, "my.yaml")
    assert not recipe.evaluation.benchmarks and recipe.judge is None
    if none:
        monkeypatch.setattr(initializing, "_has_terminal", lambda: True)
        output = init(input="\n".join(["my.jsonl", "", "", "", none, none, "asked.yaml"]) + "\n")
        assert "none for no benchmark" in output and not passes(tmp_path, "asked.yaml").evaluation.benchmarks


def test_a_place_that_takes_no_recipe_is_said_before_anything_is_asked(tmp_path):
    write_rows(tmp_path / "my.jsonl", PAIRS)
    with pytest.raises(
        RecipeError, match=r"RECIPE must be a file that can be written, got .*a.yaml, where .*/my.jsonl is a file"
    ):
        init("my.jsonl/folder/a.yaml", "--data", "nowhere.jsonl")
    with pytest.raises(RecipeError, match=r"RECIPE must be a file that can be written, got /proc/a.yaml \(No such file"):
        init("/proc/a.yaml", "--data", "my.jsonl")


def test_rows_of_which_nothing_can_be_learned_do_not_count(tmp_path):
    useless = [{"prompt": "a?", "chosen": "", "rejected": "no"}, {"prompt": "a?", "chosen": "same", "rejected": "same"}]
    write_rows(tmp_path / "some.jsonl", [*PAIRS, *useless])
    read_as = " ".join(init("--data", "some.jsonl").split())
    assert f"{len(PAIRS)} of {len(PAIRS) + 2} rows" in read_as and "chosen and rejected must both hold text" in read_as
    for rows, why in ((useless[:1], "must both hold text"), (useless[1:], "are the same text")):
        write_rows(tmp_path / "none.jsonl", rows * 3)
        with pytest.raises(RecipeError, match=f"pairs: line 1: chosen and rejected {why}"):
            init("--data", "none.jsonl")
