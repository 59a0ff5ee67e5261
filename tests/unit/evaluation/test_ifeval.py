"""IFEval on hand-made rows in upstream's form, by lm-eval's checkers, with a small sentence tokenizer in place of NLTK's data."""

import json
from types import SimpleNamespace

import nltk
import pytest

from evaluation.benchmarks import ifeval
from evaluation.scoring.score import aggregate, score_records

# Rows, and a reply that follows all of the row's instructions.
FOLLOWED = [
    (["punctuation:no_comma"], [{}], "No such sign is here."),
    (["startend:quotation", "keywords:existence"], [{}, {"keywords": ["apple", "pear"]}], '"An apple and a pear."'),
    (["length_constraints:number_sentences"], [{"relation": "at least", "num_sentences": 3}], "One. Two. Dr. No came."),
    (
        ["change_case:capital_word_frequency"],
        [{"capital_relation": "less than", "capital_frequency": 3}],
        "TWO WORDS in capitals.",
    ),
    (["length_constraints:number_words"], [{"relation": "less than", "num_words": 4}], "three words here"),
    (["keywords:letter_frequency"], [{"letter": "#", "let_frequency": 3, "let_relation": "at least"}], "#one #two #three"),
    (["language:response_language"], [{"language": "de"}], "Das ist ein ganz gewöhnlicher deutscher Satz über das Wetter."),
    (["detectable_format:json_format"], [{}], '```json\n{"a": 1}\n```'),
    (["combination:repeat_prompt"], [{"prompt_to_repeat": "Name a colour."}], "Name a colour.\n\nRed."),
    (["change_case:english_lowercase"], [{}], "all of this is written in small letters, as it was asked for."),
    (
        ["length_constraints:nth_paragraph_first_word"],
        [{"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "so"}],
        "Why?\n\nSo.",
    ),
]


def _row(key, instructions, kwargs):
    return {"key": key, "prompt": f"Prompt {key}.", "instruction_id_list": instructions, "kwargs": kwargs}


ROWS = [_row(1000 + number, *row[:2]) for number, row in enumerate(FOLLOWED)]
REPLIES = {f"ifeval-{row['key']}": reply for row, (_, _, reply) in zip(ROWS, FOLLOWED, strict=True)}


@pytest.fixture(scope="module")
def nltk_folder(tmp_path_factory):
    """NLTK's data with an English that knows one abbreviation. One of all tests: the checkers' process is started with it."""
    folder = tmp_path_factory.mktemp("nltk_data")
    english = folder / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True)
    (english / "abbrev_types.txt").write_text("dr\n")
    for name in ("collocations.tab", "ortho_context.tab", "sent_starters.txt"):
        (english / name).write_text("")
    return folder


@pytest.fixture(autouse=True)
def punkt(nltk_folder, monkeypatch):
    """Nothing may be fetched."""
    monkeypatch.setattr(nltk.data, "path", [str(nltk_folder)])

    def download(*args, **kwargs):
        raise AssertionError("nltk.download was called")

    monkeypatch.setattr(nltk, "download", download)


def _file(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _item(instruction, **arguments):
    return {"id": "i", "question": "q", "instructions": [instruction], "arguments": [arguments]}


def _scored(items, reply, n_expected=None):
    completions = [{"id": item["id"], "completion": reply(item), "finish_reason": "stop"} for item in items]
    return aggregate("ifeval", score_records("ifeval", items, completions), n_expected or len(items))


def test_replies_that_follow_are_all_right_and_empty_ones_follow_nothing(tmp_path):
    items = ifeval.load(_file(tmp_path, ROWS), None)
    result = _scored(items, lambda item: REPLIES[item["id"]])
    assert (result["accuracy"], result["no_answer"], result["n_benchmark"]) == (100, 0, 541)
    assert result["metrics"] == {"prompt_loose": 100, "instruction_strict": 100, "instruction_loose": 100}
    empty = _scored(items, lambda item: " \n")
    assert (empty["accuracy"], empty["no_answer"]) == (0, 100) and set(empty["metrics"].values()) == {0}


def test_each_reply_is_for_its_own_instructions(tmp_path):
    """Another item's reply breaks most of them: no checker says yes to everything."""
    items = ifeval.load(_file(tmp_path, ROWS), None)
    others = dict(zip(REPLIES, [*list(REPLIES.values())[1:], "A, b."], strict=True))
    broken = {item["id"] for item in items if ifeval.score(item, others[item["id"]], "stop").outcome == "wrong"}
    assert len(broken) >= 8


def test_instruction_level_is_the_share_of_all_instructions_not_of_prompts():
    """Of 1 + 3 instructions the first item's is followed, and one of the second's: 2 of 4, where the items' shares are 1 and 1/3."""
    none, words = "punctuation:no_comma", "length_constraints:number_words"
    limits = [{"relation": "at least", "num_words": number} for number in (50, 60)]
    items = [
        {"id": "a", "question": "q", "instructions": [none], "arguments": [{}]},
        {"id": "b", "question": "r", "instructions": [none, words, words], "arguments": [{}, *limits]},
    ]
    result = _scored(items, lambda item: "short")
    assert result["accuracy"] == 50 and result["metrics"]["instruction_strict"] == 50
    # A missing item is taken to have as many as the others on average, 2.
    assert _scored(items, lambda item: "short", 3)["metrics"]["instruction_strict"] == pytest.approx(100 * 2 / 6)
    assert result["metrics"]["prompt_loose"] == 50


def test_what_ends_in_mid_thought_follows_none_of_its_own_instructions():
    """3 of 3 and 0 of 1: of all instructions 3 of 4 are followed."""
    none = "punctuation:no_comma"
    items = [
        {"id": "a", "question": "q", "instructions": [none] * 3, "arguments": [{}] * 3},
        {"id": "b", "question": "r", "instructions": [none], "arguments": [{}]},
    ]
    result = _scored(items, lambda item: "Yes." if item["id"] == "a" else "<think>Yes.")
    assert result["metrics"]["instruction_strict"] == 75 and result["rules"]["unfinished_thought"] == 1


def test_loose_leaves_out_the_first_and_the_last_line_and_asterisks():
    item = _item("punctuation:no_comma")
    for reply in ("Sure, here it is:\nNo such sign.", "No such sign.\nBye, then.", "Well, yes.\nNo such sign.\nBye, then."):
        verdict = ifeval.score(item, reply, "stop")
        assert (verdict.outcome, verdict.metrics["prompt_loose"]) == ("wrong", True)
        assert verdict.answer == "0 of 1 followed, not punctuation:no_comma"
    emphasis = ifeval.score(_item("startend:quotation"), '*"Yes."*', "stop")
    assert (emphasis.outcome, emphasis.metrics["prompt_loose"]) == ("wrong", True)
    assert ifeval.score(item, "a, b\nc, d", "stop").metrics["prompt_loose"] is False


def test_what_stands_before_the_end_of_reasoning_is_no_reply():
    item = _item("punctuation:no_comma")
    said = {
        "<think>Well, well.</think>Yes.": "correct",
        "<think>Yes.</think>Well, well.": "wrong",
        "<think>Yes.</think>": "no_answer",
    }
    for completion, outcome in said.items():
        (record,) = score_records("ifeval", [item], [{"id": item["id"], "completion": completion, "finish_reason": "stop"}])
        assert record["outcome"] == outcome


def test_a_sign_that_is_no_letter_is_counted_itself():
    """lm-eval's checker draws a letter in its place, another one each time."""
    item = _item("keywords:letter_frequency", letter="!", let_frequency=3, let_relation="at least")
    letters = "abcdefghijklmnopqrstuvwxyz" * 3
    assert [ifeval.score(item, letters + "!!", "stop").outcome for _ in range(20)] == ["wrong"] * 20
    assert [ifeval.score(item, "!!!", "stop").outcome for _ in range(20)] == ["correct"] * 20
    letter = _item("keywords:letter_frequency", letter="E", let_frequency=2, let_relation="less than")
    assert [ifeval.score(letter, text, "stop").outcome for text in ("one", "EleE")] == ["correct", "wrong"]


def test_a_language_is_the_same_at_each_guess():
    item = _item("language:response_language", language="en")
    assert len({ifeval.score(item, "ok ja no si", "stop").outcome for _ in range(30)}) == 1


def test_json_that_is_nested_too_deep_is_not_followed():
    assert ifeval.score(_item("detectable_format:json_format"), "[" * 100_000, "length").outcome == "wrong"


@pytest.mark.parametrize(
    ("instruction", "arguments", "reply"),
    [
        ("keywords:existence", {"keywords": ["(a+)+$"]}, "a" * 50 + "b"),
        ("detectable_content:number_placeholders", {"num_placeholders": 1}, "[" * 200_000),
    ],
)
def test_a_reply_that_the_checkers_do_not_end_with_is_wrong_and_says_so(monkeypatch, instruction, arguments, reply):
    from evaluation.answers import instructions

    monkeypatch.setattr(instructions, "LIMIT_S", 1.0)
    verdict = ifeval.score(_item(instruction, **arguments), reply, "stop")
    assert (verdict.outcome, verdict.rule) == ("wrong", "unchecked") and "took more than 1 s" in verdict.answer
    assert verdict.metrics == {"prompt_loose": False, "instruction_strict": 0.0, "instruction_loose": 0.0}
    # It loses its own result alone.
    assert ifeval.score(_item("punctuation:no_comma"), "none here", "stop").outcome == "correct"


def test_an_argument_that_is_no_expression_is_named():
    with pytest.raises(
        ValueError, match=r"the arguments of keywords:existence must be what lm-eval's checkers take.*correct the item"
    ):
        ifeval.score(_item("keywords:existence", keywords=["(a"]), "a reply", "stop")


def test_the_instructions_and_their_arguments_are_those_of_lm_evals_checkers():
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    keys = {name: set(checker(name).get_instruction_args_keys()) for name, checker in INSTRUCTION_DICT.items()}
    assert keys == {name: set(arguments) for name, arguments in ifeval.ARGUMENTS.items()}


def test_verdicts_are_lm_evals(tmp_path):
    from lm_eval.tasks.ifeval.utils import process_results

    rows = [row for row in ROWS if row["instruction_id_list"] != ["keywords:letter_frequency"]]
    items = ifeval.load(_file(tmp_path, rows), None)
    outcomes = set()
    for item, row in zip(items, rows, strict=True):
        for reply in [*REPLIES.values(), "Sure, here:\n" + REPLIES[item["id"]], "", "*x*\n\ny, Z"]:
            theirs = process_results(row, [reply])
            ours = ifeval.score(item, reply, "stop")
            assert (ours.outcome == "correct", ours.metrics["prompt_loose"]) == (
                theirs["prompt_level_strict_acc"],
                theirs["prompt_level_loose_acc"],
            )
            assert ours.metrics["instruction_strict"] * len(row["kwargs"]) == sum(theirs["inst_level_strict_acc"])
            assert ours.metrics["instruction_loose"] * len(row["kwargs"]) == sum(theirs["inst_level_loose_acc"])
            outcomes.add((ours.outcome, ours.metrics["prompt_loose"]))
    assert outcomes == {("correct", True), ("wrong", True), ("wrong", False), ("no_answer", False)}


# Loading


def test_the_hubs_empty_arguments_are_left_out(tmp_path):
    """The hub's rows name every argument of every instruction, most of them as null."""
    names = {name for arguments in ifeval.ARGUMENTS.values() for name in arguments}
    hub = [{**row, "kwargs": [{**dict.fromkeys(names), **given} for given in row["kwargs"]]} for row in ROWS]
    assert ifeval.load(_file(tmp_path, hub), None) == ifeval.load(_file(tmp_path, ROWS), None)


@pytest.mark.parametrize(
    ("instructions", "kwargs", "message"),
    [
        (["punctuation:no_colon"], [{}], "have instructions of IFEval's 25, got punctuation:no_colon at .*line 1"),
        (["length_constraints:number_words"], [{"relation": "at least"}], "have num_words, relation as the kwargs of length"),
        (["keywords:existence"], [{"keywords": []}], "have keywords as the kwargs of keywords:existence"),
        (["punctuation:no_comma"], [{"keywords": ["a"]}], "have no arguments as the kwargs of punctuation:no_comma"),
        (["length_constraints:number_words"], [{"relation": "more than", "num_words": 5}], "have less than or at least"),
        (["punctuation:no_comma"], [], "have kwargs for each of its instructions, got 1 instructions, 0 kwargs"),
        ([], [], "have kwargs for each of its instructions"),
        (["punctuation:no_comma"], ["x"], "have a mapping as the kwargs of punctuation:no_comma, got x"),
    ],
)
def test_rows_that_a_checker_would_complete_at_random_are_refused(instructions, kwargs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ifeval.load(_file(tmp_path, [_row(1, instructions, kwargs)]), None)


def test_another_number_of_prompts_is_refused(tmp_path, monkeypatch):
    import datasets

    rows = [_row(key, ["punctuation:no_comma"], [{}]) for key in range(542)]
    with pytest.raises(ValueError, match=r"ifeval\.source must give at most the protocol's 541 items, got 542"):
        ifeval.load(_file(tmp_path, rows), 5)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: rows[:540])
    with pytest.raises(ValueError, match="must give the protocol's 541 items, got 540 from google/IFEval"):
        ifeval.load(None, None)


def test_without_nltks_data_nothing_is_scored_or_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    (item, *_) = ifeval.load(_file(tmp_path, ROWS), None)
    for call in (ifeval.check, lambda: ifeval.score(item, "Yes.", "stop")):
        with pytest.raises(
            FileNotFoundError, match=r"ifeval must have NLTK's data punkt_tab .*python -m nltk.downloader punkt_tab"
        ):
            call()


def test_the_preflight_asks_for_nltks_data_before_the_hub(tmp_path, monkeypatch):
    from flows.dag import preflight

    node = SimpleNamespace(settings={"benchmark": "ifeval", "source": "hub", "limit": None})
    recipe = SimpleNamespace(evaluation=SimpleNamespace(benchmarks={"ifeval": {}}))
    monkeypatch.setattr(preflight.hub, "set_check", lambda key, *args: preflight.Check(key, None, "asked"))
    assert preflight._benchmark(node, recipe).seen == "asked"
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    refused = preflight._benchmark(node, recipe).problem
    assert refused.startswith("evaluation.benchmarks.ifeval must have NLTK's data punkt_tab")


def test_generations_do_not_hang_on_the_checkers_and_scores_do(tmp_path):
    from tasks.keys import code_digests, library_versions

    generation, scoring = (
        code_digests(["evaluation.benchmarks.ifeval:load,messages"]),
        code_digests(["evaluation.benchmarks.ifeval:score"]),
    )
    assert "evaluation.answers.instructions" in scoring.keys() - generation.keys()
    assert not library_versions(generation) and set(library_versions(scoring)) == {"lm-eval", "langdetect", "nltk"}
