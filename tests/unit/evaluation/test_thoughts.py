"""Thoughts: kept on record, and no answer is ever read from one."""

import json
import time
from typing import ClassVar

import pytest
from tokenizers import AddedToken

from data.labelers import verifier
from data.labelers._unfinished import without_unfinished
from data.sampling.rewards import add_gold, reward_statistics
from evaluation.answers.thoughts import MARKERS, answer_of, begins_thought, ends_alone, noted, spoken
from evaluation.generation.generate import generate
from evaluation.generation.thinking import check_markers, thought_markers
from evaluation.judging.answers import completions_by_question, read_answers
from evaluation.report.examples import _without_thought as shown_example
from evaluation.report.summary import _thoughts as thoughts_note
from evaluation.scoring.score import aggregate, score_completions, score_records
from evaluation.types import Generation, Sampling
from tasks.stages._models import markers_of
from tests.unit.evaluation.fake_engine import FakeEngine, no_progress

ITEMS = [{"id": str(number), "question": f"{number}?", "answer": "4"} for number in range(4)]
RIGHT, WRONG = '{"reasoning": "so", "answer": "4"}', '{"reasoning": "so", "answer": "5"}'


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("4", "4"),
        ("<think>5?</think>\n\nSo 4", "So 4"),
        ("first 5, no</think>4", "4"),  # the template began the thought
        ("<think>5 is", None),
        ("Well. <think>5", None),
        ("<think>a</think>4 <think>or 5", None),
        ("<think>it ends with </think> there 5</think>4", "4"),
        ("<think></think>", ""),
        ("it has `<think>`, so 4", "it has `<think>`, so 4"),
        ("<think>it has `</think>` in it: 5", None),
        ('{"reasoning": "has <think> in it", "answer": 3}', '{"reasoning": "has <think> in it", "answer": 3}'),
        ('{"answer": 9}</think>{"answer": 3}', '{"answer": 3}'),
        ('<think>x</think>{"text": "<think>", "answer": 3}', '{"text": "<think>", "answer": 3}'),
        ("Write\n```xml\n<think>\n```\nand so 4", "Write\n```xml\n<think>\n```\nand so 4"),
        ("<think>\n```\ncode\n</think>4 ```", "4 ```"),
        # An answer shows the markers: in code, between backticks, in its words.
        ("<think>a</think>4\n```xml\n<think>\nx\n</think>\n```", "4\n```xml\n<think>\nx\n</think>\n```"),
        ("<think>a</think>4\n```\n</think>\n```", "4\n```\n</think>\n```"),
        ("<think>a</think>4, as in `<think>x</think>`", "4, as in `<think>x</think>`"),
        ("<think>a</think>4 <think>x</think> is it", "4 <think>x</think> is it"),
        ("a</think>4 <think>x</think> is it", "4 <think>x</think> is it"),
        ('<think>x</think>{"text": "</think>", "answer": 3}', '{"text": "</think>", "answer": 3}'),
        ("Use\n```\n<think>x</think>\n```\nso 4", "Use\n```\n<think>x</think>\n```\nso 4"),
        ("Use `<think>x</think>`, so 4", "Use `<think>x</think>`, so 4"),
        # Thoughts that follow one another; and two of which the last has no end.
        ("<think>a</think>\n<think>b</think>\n\n4", "4"),
        ("a</think>\n<think>b</think>\n\n4", "4"),
        ("<think>a</think>\n<think>b", None),
        # What is before a thought that the model begins is no answer, as it may be the thought's first words.
        ("Well. <think>5</think>4", "4"),
        # A thought quotes the markers: one of them, both, in code.
        ("<think>a <think> tag</think>4", "4"),
        ("<think>so <think>x</think> it is</think>4", "4"),
        ("<think>see\n```\n<think>x</think>\n```\nyes</think>4", "4"),
        ("<think>see\n```\n<think>x</think>\n```\n5 is", None),
        ("<think>`<think>x</think>` is 5", None),
        ("<think>``</think>`` is 5", None),
        ("<think>`x`</think>`4`", "`4`"),
        # Code that a later thought leaves open doesn't reach into the answer.
        ("<think>a</think><think>it`s b</think>4, `x`", "4, `x`"),
        ("<think>a</think><think>```\nb</think>4 ```x```", "4 ```x```"),
        ("<think>a</think>`b` <think>c</think>4", "`b` <think>c</think>4"),
        # An answer's fence that its limit cut, and one that nothing but words show.
        ("<think>a</think>So:\n```\n<think>\n5", "So:\n```\n<think>\n5"),
        ("<think>a</think>So:\n```\n<think>5</think>\n", "So:\n```\n<think>5</think>\n"),
        ("<think>a</think>So:\n~~~\n<think>\n5", "So:\n~~~\n<think>\n5"),
        ("<think>a</think>So: ~~~<think>\n5", None),
        # Fences of tildes, and those of four backticks that show three.
        ("Use\n~~~\n<think>x</think>\n~~~\nso 4", "Use\n~~~\n<think>x</think>\n~~~\nso 4"),
        ("Use\n````\n```\n<think>\n````\nso 4", "Use\n````\n```\n<think>\n````\nso 4"),
        ("<think>see\n````\n```\n</think>\n````\n5</think>4", "4"),
        # JSON: an array, and what begins with a byte order mark.
        ('["<think>", "4"]', '["<think>", "4"]'),
        ('\ufeff{"text": "</think>", "answer": 3}', '\ufeff{"text": "</think>", "answer": 3}'),
        ('<think>x</think>\n["</think>", 3]', '["</think>", 3]'),
        ('{"a": 1} </think>4', "4"),
    ],
)
def test_what_a_reply_says(reply: str, said: str | None):
    assert spoken(reply) == said
    assert answer_of({"completion": reply}) == said
    assert answer_of({"completion": reply, **noted(reply, begun=False)}) == said


def test_a_thought_that_the_template_began_ends_or_says_nothing():
    assert spoken("4", begun=True) is None and spoken(RIGHT, begun=True) is None
    assert spoken("hm</think>4", begun=True) == "4"
    assert begins_thought("<|assistant|>\n<think>\n") and not begins_thought("<think>\n\n</think>\n\n")
    assert ends_alone("hm</think>x") and not ends_alone("<think>hm</think>x") and not ends_alone("x")


def test_after_a_thought_that_the_template_began_an_answer_may_show_one():
    assert spoken("hm</think>4 <think>x</think> is it", begun=True) == "4 <think>x</think> is it"
    assert spoken("<think>\nhm</think>4", begun=True) == "4"
    assert spoken("as in\n```\n<think>x</think>\n```\n5 or", begun=True) is None
    # Of an endpoint's completions these tell that its template begins the thoughts.
    assert ends_alone("hm</think>4 <think>x</think>") and not ends_alone("Use `<think>x</think>`")


def test_a_reply_that_repeats_markers_until_its_limit_is_read_in_a_moment():
    started = time.process_time()
    texts = (
        "</think>",
        "<think>",
        "<think>x</think>",
        "`<think>",
        "{</think>",
        "```<think>",
        '</think>{"a": [',
        "```</think>",
        "`",
    )
    for text in (*texts, "</think>\n{", "\n~~~</think>", "```` ``` </think>", '{"a":', "[", " \n"):
        spoken("<think>a</think>b" + text * 10_000)
        spoken("```" + text * 10_000 + "```")
        spoken(text * 10_000 + "4")
    assert time.process_time() - started < 10


def test_a_model_may_have_markers_of_its_own():
    markers = ["[THINK]", "[/THINK]"]
    assert spoken("[THINK]5[/THINK]4", markers=markers) == "4" and spoken("[THINK]5", markers=markers) is None
    assert spoken("<think>4", markers=markers) == "<think>4"
    # A reader of the record doesn't look for the usual ones either.
    assert answer_of({"completion": "<think>4", **noted("<think>4", begun=False, markers=markers)}) == "<think>4"
    # What was noted when it was generated counts, whatever the markers.
    assert answer_of({"completion": "[THINK]5[/THINK]4", **noted("[THINK]5[/THINK]4", begun=False, markers=markers)}) == "4"


class Letters:
    """A tokenizer with a token for each character; `<s>` is special."""

    all_special_tokens, all_special_ids, bos_token = ("<s>",), (0,), "<s>"
    added_tokens_decoder: ClassVar = {1: AddedToken("<t>", special=True), 2: AddedToken("<think>", special=False)}

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}


def test_generating_notes_where_the_answer_begins_and_how_long_the_thought_is(tmp_path):
    said = {"0?": "4", "1?": "<think>abc</think>4", "2?": "<think>abc", "3?": "x</think>\n\n45"}
    engine = FakeEngine(lambda messages: Generation(text := said[messages[0]["content"]], [], "stop", 1, len(text)))
    generate(
        engine,
        Letters(),
        ITEMS,
        lambda item: [{"role": "user", "content": item["question"]}],
        Sampling(9),
        tmp_path,
        no_progress,
    )
    records = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert [record["completion"] for record in records] == [said[item["question"]] for item in ITEMS]
    assert "answer_start" not in records[0] and "num_thought_tokens" not in records[0]
    assert [(record["answer_start"], record["num_thought_tokens"]) for record in records[1:]] == [
        (18, 18),
        (None, 10),
        (11, 11),
    ]


def test_at_an_endpoint_whose_template_begins_thoughts_one_that_is_cut_off_is_no_answer(tmp_path):
    def kept(folder, *said):
        replies = {
            item["question"]: Generation(text, [], reason, 1, 9) for item, (text, reason) in zip(ITEMS, said, strict=True)
        }
        engine = FakeEngine(lambda messages: replies[messages[0]["content"]])
        generate(
            *(engine, None, ITEMS, lambda item: [{"role": "user", "content": item["question"]}], Sampling(9)),
            *(tmp_path / folder, no_progress),
        )
        lines = (tmp_path / folder / "completions.jsonl").read_text().splitlines()
        return [json.loads(line).get("answer_start", "all") for line in lines]

    cut, whole = ("is it 4 or 5", "length"), ("hm</think>4", "stop")
    assert kept("begun", cut, whole, ("h</think>it is four, as", "length"), whole) == [None, 10, 9, 10]
    # It is the model itself that begins them, or there is no thought.
    assert kept("own", cut, ("<think>hm</think>4", "stop"), ("4", "stop"), ("4", "stop")) == ["all", 17, "all", "all"]
    # Half of them tell nothing, nor does a reply that ended by itself; where none ended, nothing is known.
    assert kept("half", cut, whole, ("4", "stop"), cut) == ["all", 10, "all", "all"]
    assert kept("none", cut, cut, cut, cut) == ["all"] * 4
    assert kept("most", ("4", "stop"), whole, whole, cut) == ["all", 10, 10, None]


def test_a_marker_that_begins_or_ends_texts_is_refused():
    with pytest.raises(ValueError, match="think_tokens must be texts that decoding keeps, got <s>, which begins, ends or"):
        check_markers(Letters(), ["<s>", "</s>"])
    # Another special token may be one.
    check_markers(Letters(), ["<t>", "</t>"])
    check_markers(Letters(), ["<think>", "</think>"])


class Vocabulary:
    """A tokenizer with these tokens and this chat template."""

    def __init__(self, *tokens: str, template: str = "{{ messages }}"):
        self.added_tokens_decoder = {number: AddedToken(text) for number, text in enumerate(tokens)}
        self.chat_template = template


MISTRAL, COHERE = ("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>")


@pytest.mark.parametrize(
    ("tokenizer", "markers"),
    [
        (Vocabulary(), MARKERS),
        (Vocabulary(*MISTRAL), MISTRAL),
        (Vocabulary("<|x|>", *COHERE), COHERE),
        (Vocabulary("[THINK]"), MARKERS),  # half of a pair is none
        (Vocabulary(*MISTRAL, *MARKERS), MARKERS),
        # A model that was trained to write the usual ones as text.
        (Vocabulary(*MISTRAL, template="{% set content = content.split('</think>')[-1] %}"), MARKERS),
        (None, MARKERS),
    ],
)
def test_markers_are_those_of_the_tokenizer_unless_the_usual_ones_are_there(tokenizer, markers):
    assert thought_markers(tokenizer, None) == markers
    assert thought_markers(tokenizer, ["[A]", "[/A]"]) == ("[A]", "[/A]")


def test_a_stage_s_log_says_which_markers_it_took(capsys):
    for settings, tokenizer, said in (
        ({}, Vocabulary(), "<think> and </think>, as usual"),
        ({}, Vocabulary(*MISTRAL), "[THINK] and [/THINK], of which the tokenizer has the tokens"),
        ({"think_tokens": ["[A]", "[/A]"]}, Vocabulary(*MISTRAL), "[A] and [/A], as think_tokens has it"),
    ):
        assert " and ".join(markers_of(settings, tokenizer)) in said
        assert capsys.readouterr().out == f"a thought is what is written between {said}\n"


def test_of_several_pairs_none_is_guessed():
    with pytest.raises(
        ValueError, match=r"think_tokens must say .* has \[\[THINK\], \[/THINK\]\] and \[<\|START.*set it to one"
    ):
        thought_markers(Vocabulary(*MISTRAL, *COHERE), None)


def completions(*texts: str) -> list[dict]:
    return [
        {"id": str(number), "completion": text, "finish_reason": "stop", "num_completion_tokens": 10}
        for number, text in enumerate(texts)
    ]


def test_only_what_follows_the_thought_is_scored():
    """GSM8K's scorer would read the 4 in the thought of the second, and the 5 in that of the first."""
    texts = (f"<think>{WRONG}</think>{RIGHT}", f"<think>{RIGHT}</think>{WRONG}", f"<think>{RIGHT}", RIGHT)
    records = score_records("gsm8k", ITEMS, completions(*texts))
    assert [record["outcome"] for record in records] == ["correct", "wrong", "no_answer", "correct"]
    assert records[2]["rule"] == "unfinished_thought" and [record["completion"] for record in records] == list(texts)
    read = score_records("gsm8k", ITEMS, completions(*texts), has_thoughts=False)
    assert [record["outcome"] for record in read] == ["wrong", "correct", "correct", "correct"]
    assert not any("answer_start" in record for record in read)


def test_the_result_says_how_much_was_thought_and_of_a_model_that_doesn_t_nothing():
    found = completions(f"<think>x</think>{RIGHT}", "<think>x", RIGHT, RIGHT)
    found[0]["answer_start"], found[0]["num_thought_tokens"] = 16, 6
    found[1]["answer_start"], found[1]["num_thought_tokens"] = None, 10
    score = aggregate("gsm8k", score_records("gsm8k", ITEMS, found), 4)
    assert score["thoughts"] == {"share": 50.0, "unfinished": 25.0, "mean_thought_tokens": 8.0, "mean_answer_tokens": 2.0}
    note = thoughts_note("gsm8k", {"base": {}, "aligned": score})
    assert note is not None and note.endswith(
        "aligned in 50.0 % of the completions, in the mean 8 tokens and 2 of answer; 25.0 % end in mid-thought."
    )
    plain = aggregate("gsm8k", score_records("gsm8k", ITEMS, completions(RIGHT, RIGHT, RIGHT, RIGHT)), 4)
    assert "thoughts" not in plain and thoughts_note("gsm8k", {"base": plain}) is None


def test_an_example_shows_the_answer_and_how_long_the_thought_was():
    assert (
        shown_example({"completion": f"<think>{'x' * 4000}</think>4"})
        == "[a thought of 4015 characters, on the page of all items]\n4"
    )
    assert shown_example({"completion": "4"}) == "4" and shown_example({"completion": "<think>4"}) == "<think>4"


def test_a_file_of_ours_has_its_thoughts_taken_off_and_zeroeval_s_only_where_asked(tmp_path):
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    text = f"<think>{RIGHT}</think>{WRONG}"
    (tmp_path / "completions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in completions(*[text] * 4)))
    assert score_completions("gsm8k", tmp_path / "completions.jsonl")["accuracy"] == 0.0
    assert score_completions("gsm8k", tmp_path / "completions.jsonl", has_thoughts=False)["accuracy"] == 100.0
    upstream = [{"id": item["id"], "output": [text], "answer": "4", "dataset": "gsm", "question": "?"} for item in ITEMS]
    (tmp_path / "model.json").write_text(json.dumps(upstream))
    read, asked = (
        score_completions("gsm8k", tmp_path / "model.json", format="zeroeval", has_thoughts=off) for off in (None, True)
    )
    assert (read["rules"], asked["accuracy_of_present"], read["accuracy_of_present"]) == ({"json": 4}, 0.0, 100.0)


def sample(*texts: str, **more: object) -> dict:
    item = {"id": "a", "a": 30, "b": 55, "answer": 55}
    return {
        "id": "a",
        "item": item,
        "held_out": True,
        "completions": [{"text": text, "finish_reason": "stop"} for text in texts],
        **more,
    }


def test_samples_are_labelled_by_what_they_say(tmp_path):
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample("<think>30 or 55</think>55", "<think>55", "55")) + "\n")
    verifier.label(tmp_path / "samples.jsonl", tmp_path / "out.jsonl", benchmark="number_comparison", progress=no_progress)
    labelled = json.loads((tmp_path / "out.jsonl").read_text())["completions"]
    assert [(one["reward"], one["outcome"]) for one in labelled] == [(1.0, "correct"), (0.0, "no_answer"), (1.0, "correct")]
    # What is trained on is the whole completion.
    assert labelled[0]["text"] == "<think>30 or 55</think>55"


def test_a_judge_is_shown_no_thought_and_an_unfinished_one_is_worth_nothing():
    record = sample("<think>x</think>55", "<think>55")
    assert [said for _, _, said in without_unfinished([record])] == ["55"]
    assert (record["completions"][1]["reward"], record["completions"][1]["outcome"]) == (0.0, "no_answer")
    add_gold([record], "number_comparison")
    assert [one["gold"] for one in record["completions"]] == [1.0, 0.0]


def test_judged_answers_are_without_thoughts(tmp_path):
    records = [{"id": "a", "completion": "<think>x</think>Hi"}, {"id": "b", "completion": "<think>x"}]
    assert completions_by_question(records) == {"a": ["Hi"], "b": [""]}
    # As a baseline's file too.
    (tmp_path / "base.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert read_answers(tmp_path / "base.jsonl").turns == {"a": ["Hi"], "b": [""]}


def test_a_reward_model_s_statistics_leave_out_what_has_no_reward_of_its_own():
    record = sample("<think>x</think>55", "<think>55")
    ((_, rated, _),) = without_unfinished([record])
    rated |= {"raw_reward": -12.5, "reward": 0.5, "outcome": "rated"}
    for one in record["completions"]:
        one["token_ids"] = [1]
    found = reward_statistics([record]).held_out
    assert found is not None and (found.reward_mean, found.reward_best, found.num_labels) == (-12.5, -12.5, 1)
