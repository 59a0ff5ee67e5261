"""A judge with reasoning: its thought is kept on record, and no verdict is ever read from it."""

import copy
import json
from pathlib import Path

import pytest

from bnf.plugins import load
from evaluation.answers.thoughts import ends_alone, spoken
from evaluation.judging.client import ModelJudge, read
from evaluation.judging.protocols import PROTOCOLS
from evaluation.types import Generation
from tests.unit.evaluation.fake_engine import FakeEngine
from tests.unit.evaluation.test_judging import QUESTIONS, games_in, play

ONE = QUESTIONS[:1]
MODEL = Path(__file__).parents[3] / "models" / "SmolLM2-135M-Instruct"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("[[A>B]]", "[[A>B]]"),
        ("<think>[[A>>B]]?</think>\n\nSo [[B>A]]", "So [[B>A]]"),
        ("first [[A>B]], no</think>[[B>A]]", "[[B>A]]"),  # the template began the thought
        ("<think>[[A>B]] is", None),
        ("Well. <think>[[A>B]]", None),
        ("<think>a</think>[[A>B]] <think>or [[B>A]]", None),
        ("<think>it ends with </think> there [[A>B]]</think>[[B>A]]", "[[B>A]]"),
        ("<think></think>", ""),
        ("A shows its `<think>` tag, so [[B>A]]", "A shows its `<think>` tag, so [[B>A]]"),
        ("<think>A has `</think>` in it: [[A>B]]", None),
        ('{"strengths": "has <think> in it", "score": 3}', '{"strengths": "has <think> in it", "score": 3}'),
        ('{"score": 9}</think>{"score": 3}', '{"score": 3}'),
    ],
)
def test_what_a_reply_says(reply, said):
    assert spoken(reply) == said


def test_a_thought_that_the_template_began_ends_or_says_nothing():
    assert spoken("[[A>B]]", begun=True) is None and spoken('{"score": 3}', begun=True) is None
    assert spoken("hm</think>[[A>B]]", begun=True) == "[[A>B]]"
    assert ends_alone("hm</think>x") and not ends_alone("<think>hm</think>x") and not ends_alone("x")


def thinking(verdict, thought):
    return lambda _: f"<think>\n{thought}\n</think>\n\n{verdict}"


def test_the_thought_is_on_record_and_the_verdict_is_what_follows_it(tmp_path):
    result = play(FakeEngine(thinking("[[A=B]]", "[[A>>B]] or [[B>A]]")), tmp_path, items=ONE)["models"]["new"]
    assert result["n_null"] == 0 and result["score"] == 50.0 and result["null_reasons"] == {}
    (first, _), calls = games_in(tmp_path), (tmp_path / "calls.jsonl").read_text()
    assert first["verdict"] == "A=B" and "[[A>>B]] or" in first["reply"] and first["null_reason"] is None
    assert json.loads(calls.splitlines()[0])["reply"] == first["reply"]


def test_a_thought_without_an_end_is_no_verdict_for_a_reason_of_its_own(tmp_path):
    """The judge is asked once more, as it has said nothing yet; the label in its thought counts nowhere."""
    engine = FakeEngine(lambda _: Generation("<think>surely [[A>B]]", [], "length", 1, 9))
    result = play(engine, tmp_path, items=ONE)["models"]["new"]
    assert len(engine.asked) == 4 and result["n_null"] == 2 and result["null_reasons"] == {"unfinished thought": 2}
    assert [game["null_reason"] for game in games_in(tmp_path)] == ["unfinished thought"] * 2
    mute = play(FakeEngine(lambda _: "Both are fine."), tmp_path / "mute", items=ONE)["models"]["new"]
    assert mute["null_reasons"] == {"no verdict in the reply": 2}
    lost = play(FakeEngine(lambda _: Generation("", [], "error: timeout", 0, 0)), tmp_path / "lost", items=ONE)
    assert lost["models"]["new"]["null_reasons"] == {"no reply": 2}


def test_the_second_reply_can_have_the_verdict_that_the_first_thought_kept_back(tmp_path):
    engine = FakeEngine(lambda m: "<think>now</think>[[A>B]]" if len(m) == 4 else "<think>[[B>A]], or")
    play(engine, tmp_path, items=ONE)
    assert [game["verdict"] for game in games_in(tmp_path)] == ["A>B", "A>B"] and games_in(tmp_path)[0]["attempts"] == 2


def test_a_cut_reply_of_a_judge_whose_template_begins_the_thought_is_a_thought(tmp_path):
    """An endpoint's template isn't known, its whole replies tell: of 24 one is cut and has no tag."""
    cut = Generation("I lean to [[A>>B]], but", [], "length", 1, 9)
    engine = FakeEngine(lambda _: cut if len(engine.asked) == 5 else "hm [[A>B]]?</think>[[A=B]]")
    result = play(engine, tmp_path)["models"]["new"]
    assert result["n_null"] == 0, "asked to go on, it ended its thought"
    assert [game["verdict"] for game in games_in(tmp_path)] == ["A=B"] * 24
    plain = FakeEngine(lambda _: cut if len(plain.asked) == 5 else "Fine: [[A=B]]")
    play(plain, tmp_path / "plain")
    assert games_in(tmp_path / "plain")[4]["verdict"] == "A>>B", "without thoughts a cut reply is read"


def test_replies_of_other_servers_and_parameters_say_nothing_of_where_this_judges_thoughts_begin(tmp_path):
    """The record of calls is one file for each judge's name. 11 plain replies were asked for without thinking, and 10 of 12 that have a
    thought's end are this judge's: by all 21 a cut one would be no thought."""
    plain = {"model": "judge-1", "chat_template_kwargs": {"enable_thinking": False}}
    play(FakeEngine(lambda _: "Fine: [[A=B]]"), tmp_path, items=QUESTIONS[:6], identity=plain)
    lines = (tmp_path / "calls.jsonl").read_text().splitlines()
    (tmp_path / "calls.jsonl").write_text("".join(line + "\n" for line in lines[:11]))
    cut = Generation("At first I lean to [[B>>A]], but wait", [], "length", 1, 9)
    engine = FakeEngine(lambda _: cut if len(engine.asked) > 10 else "hm</think>\n[[A>B]]")
    result = play(engine, tmp_path, "pairwise_hard_prompt", items=QUESTIONS[:6])["models"]["new"]
    assert [game["verdict"] for game in games_in(tmp_path)].count("B>>A") == 0
    assert result["null_reasons"] == {"unfinished thought": 2}
    # Asked again, the cut ones are whole; the record says the same to a run that asks nothing.
    again = FakeEngine(lambda _: "hm</think>\n[[A>B]]")
    assert play(again, tmp_path, "pairwise_hard_prompt", items=QUESTIONS[:6])["models"]["new"]["n_null"] == 0
    assert len(again.asked) == 2


def test_and_the_other_way_round_a_plain_judges_cut_reply_is_read(tmp_path):
    thinking = {"model": "judge-1", "base_url": "http://elsewhere/v1"}
    play(FakeEngine(lambda _: "hm</think>[[A=B]]"), tmp_path, identity=thinking)
    cut = Generation("[[B>>A]] is my verdict, as", [], "length", 1, 9)
    engine = FakeEngine(lambda _: cut if len(engine.asked) == 12 else "Fine: [[A=B]]")
    play(engine, tmp_path, items=QUESTIONS[:6])
    assert [game["verdict"] for game in games_in(tmp_path)].count("B>>A") == 1


def test_ratings_are_read_after_the_thought_too(tmp_path):
    from tests.unit.evaluation.test_judging import TASKS, scored

    answers = {item["id"]: ["text"] for item in TASKS}
    engine = FakeEngine(lambda _: f"<think>{scored(2)}</think>{scored(8)}")
    result = play(engine, tmp_path, "checklist_score", items=TASKS, models={"m": answers}, baseline=None)["models"]["m"]
    assert result["mean_score"] == 8.0


@pytest.mark.skipif(not MODEL.exists(), reason="the demonstration model is not there; run `make env`")
def test_a_judge_here_tells_by_its_template_that_its_replies_begin_in_thought(tmp_path):
    from bnf.data.rendering import load_tokenizer

    engine = FakeEngine(lambda _: "[[A>B]], says its thought", takes="tokens")
    tokenizer = load_tokenizer(MODEL, "2026-01-01")
    assert not ModelJudge(engine, tokenizer, {"model": "j"}, "text").begins_thought
    tokenizer.chat_template += "{% if add_generation_prompt %}{{ '<think>\\n' }}{% endif %}"
    judge = ModelJudge(engine, tokenizer, {"model": "j"}, "text")
    assert judge.begins_thought
    protocol, whole = load(PROTOCOLS, "pairwise"), Generation("[[A>B]]", [], "stop", 1, 1)
    assert read(protocol, "text", [whole], [True]).null_reason == "unfinished thought"
    assert read(protocol, "choice", [whole], [False]).verdict == "A>B", "what constrains a reply leaves no room for a thought"


@pytest.mark.skipif(not MODEL.exists(), reason="the demonstration model is not there; run `make env`")
def test_a_judge_here_whose_markers_are_special_tokens_is_read_after_its_thought():
    from bnf.data.rendering import load_tokenizer

    tokenizer = copy.deepcopy(load_tokenizer(MODEL, "2026-01-01"))
    plain = ModelJudge(FakeEngine(takes="ids"), tokenizer, {"model": "j"}, "text")
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    written = tokenizer("[THINK][[A>B]]?[/THINK][[B>A]]<|im_end|>", add_special_tokens=False)["input_ids"]
    # As engines decode.
    text = tokenizer.decode(written, skip_special_tokens=True)
    engine = FakeEngine(lambda _: Generation(text, written, "stop", 1, len(written)), takes="ids")
    judge, protocol, kept = ModelJudge(engine, tokenizer, {"model": "j"}, "text"), load(PROTOCOLS, "pairwise"), []
    judge.ask([[{"role": "user", "content": "?"}]], protocol, lambda _, reply: kept.append(reply))
    assert kept[0].completion == "[THINK][[A>B]]?[/THINK][[B>A]]"
    assert read(protocol, "text", kept, [False], judge.markers).verdict == "B>A"
    assert judge.parameters(protocol) == {**plain.parameters(protocol), "think_tokens": ["[THINK]", "[/THINK]"]}


def test_a_judge_at_an_endpoint_may_have_markers_of_its_own():
    protocol, own = load(PROTOCOLS, "pairwise"), ("[THINK]", "[/THINK]")
    plain, named = (ModelJudge(FakeEngine(), None, {"model": "j"}, "text", think_tokens=given) for given in (None, own))
    reply = [Generation("[THINK][[A>B]]?[/THINK][[B>A]]", [], "stop", 1, 1)]
    assert tuple(plain.markers) == ("<think>", "</think>") and named.markers == own
    assert read(protocol, "text", reply, [False], named.markers).verdict == "B>A"
    # What was asked and paid for is the same: it is read anew, and not asked for again.
    assert named.parameters(protocol) == plain.parameters(protocol)


def test_a_structured_reply_after_a_thought_between_own_markers_counts_as_obeying(tmp_path):
    protocol = load(PROTOCOLS, "pairwise")
    body = f'[THINK]{{"verdict": "?"}}[/THINK]{json.dumps({protocol.VERDICT: "[[B>A]]"})}'
    judge = ModelJudge(FakeEngine(lambda _: body), None, {"model": "j"}, "structured", think_tokens=("[THINK]", "[/THINK]"))
    kept = []
    judge.ask([[{"role": "user", "content": "?"}]] * 4, protocol, lambda _, reply: kept.append(reply))
    assert len(kept) == 4


@pytest.mark.skipif(not MODEL.exists(), reason="the demonstration model is not there; run `make env`")
def test_markers_of_a_judge_here_that_end_texts_are_refused_by_its_key():
    from bnf.data.rendering import load_tokenizer

    tokenizer = load_tokenizer(MODEL, "2026-01-01")
    with pytest.raises(ValueError, match=r"judge\.think_tokens must be texts that decoding keeps, got <\|im_"):
        ModelJudge(FakeEngine(takes="ids"), tokenizer, {"model": "j"}, "text", think_tokens=("<|im_start|>", "<|im_end|>"))


def test_a_structured_reply_is_read_after_a_thought_that_the_server_lets_through():
    protocol = load(PROTOCOLS, "pairwise")
    body = json.dumps({"reasons": "A shows <think> tags", "verdict": "[[B>A]]"})
    for text in (body, f'<think>{{"verdict": "[[A>B]]"}}</think>{body}'):
        assert read(protocol, "structured", [Generation(text, [], "stop", 1, 1)], [False]).verdict == "B>A"
