"""Thoughts with a limit: what is put in, what is on record, and what isn't touched. A token is a character here."""

import json

import pytest

from evaluation.answers.thoughts import spoken
from evaluation.generation import samples
from evaluation.generation.completion_cache import CompletionCache
from evaluation.generation.generate import generate
from evaluation.generation.samples import generate_samples
from evaluation.generation.thinking import ThinkingEngine, thinking_engine
from evaluation.report.summary import _thoughts as thoughts_note
from evaluation.scoring.score import aggregate, score_records
from evaluation.types import Sampling
from tests.unit.evaluation.fake_engine import no_progress
from tests.unit.evaluation.thinking_models import END, LONG, MARKERS, Characters, Model, said


def test_a_thought_is_ended_after_so_many_tokens_and_the_model_goes_on():
    model = Model({"a": LONG})
    assert said(model, 11, Sampling(60), "a") == [[(f"<think>one {END}4.", "stop", True)]]
    # The second request has what the first one left: 60 - 11 - 9.
    assert [sampling.max_new_tokens for _, sampling in model.calls] == [11, 40]


def test_what_is_no_long_thought_is_what_it_would_be_without_a_limit():
    plain = "It is four, as two and two are four in all.</p>"
    says = {"a": LONG, "b": plain, "c": "<think>x</think>4, as was to be shown", "d": "4"}
    model = Model(says)
    assert said(model, 33, Sampling(60), *says) == [[(text, "stop", False)] for text in says.values()]
    # All that goes on is asked for together.
    assert [number for number, _ in model.calls] == [4, 3]
    assert said(Model(says), 11, Sampling(30), "b") == [[(plain[:30], "length", False)]]


def test_a_thought_that_begins_later_isn_t_cut():
    text = f"Well then: <think>{'x' * 60}"
    assert said(Model({"a": text}), 11, Sampling(40), "a") == [[(text[:40], "length", False)]]


def test_a_thought_that_the_template_began_is_cut_too():
    """DeepSeek-R1's ends its prompts with the marker: the completion has no beginning of a thought."""
    model = Model({"a": "<think>\none two three four</think>44."})
    engine = ThinkingEngine(model, Characters(), MARKERS, 4)
    found = dict(engine.generate([[ord(letter) for letter in f"a?{begun}"] for begun in ("<think>\n", "")], Sampling(60)))
    assert [(one.completion, one.is_thought_cut) for (one,) in (found[0], found[1])] == [
        (f"one {END}4.", True),
        # Of the thought's beginning four characters are there: that is none yet.
        (model.says["a"], False),
    ]


def test_no_thought_is_cut_where_nothing_could_be_said_after_it():
    # 11 tokens of thought and 9 of the marker leave none of 20.
    model = Model({"a": LONG})
    assert said(model, 11, Sampling(20), "a") == [[(LONG[:20], "length", False)]]
    assert [sampling.max_new_tokens for _, sampling in model.calls] == [20]
    assert said(Model({"a": LONG}), 11, Sampling(21), "a") == [[(f"<think>one {END}4", "length", True)]]


def test_a_context_that_is_full_ends_a_completion_as_without_a_limit():
    # After 2 of the prompt and 11 of thought there is no room for the marker.
    assert said(Model({"a": LONG}, max_model_len=18), 11, Sampling(60), "a") == [[(LONG[:11], "length", False)]]
    assert said(Model({"a": LONG}, max_model_len=10), 11, Sampling(60), "a") == [[(LONG[:8], "length", False)]]


def test_each_of_several_samples_is_cut_by_itself_and_meets_new_random_numbers():
    model = Model({"a": LONG, "b": "4"})
    engine = ThinkingEngine(model, Characters(), MARKERS, 11)
    engine.reseed(7)
    found = dict(engine.generate([[97, 63], [98, 63]], Sampling(60, temperature=0.7, n=3)))
    assert [one.completion for one in found[0]] == [f"<think>one {END}4."] * 3 and [one.completion for one in found[1]] == [
        "4"
    ] * 3
    (_, first), (number, second) = model.calls
    assert model.seeds == [7] and first.seed is None and second.seed not in (None, 7)
    assert (number, second.n) == (3, 1)
    # Greedy decoding needs none, and a new seed would empty an engine's cache.
    list(engine.generate([[97, 63]], Sampling(60)))
    assert model.calls[-1][1].seed is None


def test_requests_with_seeds_of_their_own_go_on_with_others_that_are_their_own_too():
    """As samples of a benchmark have them on some engines: what goes on depends on its own seed, whichever others go on."""
    model = Model({"a": LONG, "b": "4", "c": LONG})
    engine = ThinkingEngine(model, Characters(), MARKERS, 11)
    prompts = [[ord(letter), 63] for letter in "abc"]
    dict(engine.generate(prompts, Sampling(60, temperature=0.7, seeds=[5, 6, 7])))
    (_, first), (number, second) = model.calls
    assert first.seeds == [5, 6, 7] and number == 2 and second.seed is None and not {5, 6, 7} & {*second.seeds}
    dict(engine.generate(prompts[2:], Sampling(60, temperature=0.7, seeds=[7])))
    assert model.calls[-1][1].seeds == second.seeds[1:]


def test_a_tasks_own_stop_text_ends_no_answer_before_it_begins():
    """A line break, as a model writes one after its thought; the caller cuts the text there."""
    model = Model({"a": LONG, "b": "It is four, as two and two are four in all."})
    said(model, 11, Sampling(60, stop=["\n"]), "a", "b")
    assert [(sampling.max_new_tokens, sampling.stop) for _, sampling in model.calls] == [(11, ["\n"]), (49, ["\n"]), (40, None)]


@pytest.mark.parametrize("own_seeds", [True, False])
def test_several_samples_of_items_are_cut_each(tmp_path, own_seeds):
    model = Model({"a": LONG, "b": "4"})
    engine = ThinkingEngine(model, Characters(), MARKERS, 11)
    items = [{"id": letter, "question": letter} for letter in "ab"]
    sampling, messages = Sampling(60, temperature=0.7), lambda item: [{"role": "user", "content": item["question"]}]
    rendered = ([[ord(letter), 63] for letter in "ab"], ["a?", "b?"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "rendered", lambda *_: rendered)
        generate_samples(engine, Characters(), items, messages, sampling, 3, tmp_path, no_progress, own_seeds=own_seeds)
    found = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert [(one["id"], one["sample"], one["is_thought_cut"]) for one in found] == [
        *(("a", number, True) for number in range(3)),
        *(("b", number, False) for number in range(3)),
    ]
    # An engine that takes no seed for each request is seeded anew before each chunk.
    assert len(model.seeds) == (0 if own_seeds else 3)


def test_choices_and_likelihoods_pass_through():
    model = Model({"a": LONG})
    assert said(model, 3, Sampling(60, choices=["x"]), "a") == [[(LONG, "stop", False)]] and len(model.calls) == 1
    assert dict(ThinkingEngine(model, Characters(), MARKERS, 3).loglikelihoods([([1], [2, 3])])) == {0: (2.0, True)}


def test_the_end_stands_in_no_quotation():
    """Between backticks it would be one, and the thought would seem to go on."""
    found = said(Model({"a": "<think>see `x` and more</think>4"}, after="` is 4"), 12, Sampling(60), "a")
    assert found == [[(f"<think>see `{END}` is 4", "stop", True)]] and spoken(found[0][0][0]) == "` is 4"


class NoMarker(Characters):
    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [ord(letter) for letter in text if letter.isalpha()]}


def test_what_can_have_no_limit_is_refused():
    with pytest.raises(
        ValueError, match=r"max_thinking_tokens must be left out for an engine behind an endpoint.*got 5; remove it"
    ):
        server = Model({})
        server.takes = "messages"
        thinking_engine(server, None, MARKERS, 5)
    with pytest.raises(
        ValueError, match=r"think_tokens must end with a text that the model's tokenizer writes, got '</think>'"
    ):
        thinking_engine(Model({}), NoMarker(), MARKERS, 5)
    model = Model({})
    assert thinking_engine(model, Characters(), MARKERS, None) is model


RIGHT = '{"reasoning": "so", "answer": "4"}'


def test_records_and_results_say_which_thoughts_were_cut(tmp_path):
    items = [{"id": letter, "question": letter, "answer": "4"} for letter in "abcd"]
    says = {"a": LONG, "b": RIGHT, "c": f"<think>x</think>{RIGHT}", "d": LONG}
    engine = ThinkingEngine(Model(says, after=RIGHT), Characters(), MARKERS, 16)

    def records(folder, engine):
        cache = CompletionCache(tmp_path / "cache.jsonl")
        generate(engine, Characters(), items, lambda item: item, Sampling(200), tmp_path / folder, no_progress, cache)
        return [json.loads(line) for line in (tmp_path / folder / "completions.jsonl").read_text().splitlines()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "evaluation.generation.generate.render",
            lambda engine, tokenizer, asked, markers: (
                [[ord(one["id"]), 63] for one in asked],
                [f"{one['id']}?" for one in asked],
            ),
        )
        found = records("first", engine)
        assert records("again", Model({})) == found, "what is kept says it too"
    assert [one["is_thought_cut"] for one in found] == [True, False, False, True]
    assert found[0]["completion"] == f"<think>one two t{END}{RIGHT}"
    assert (found[0]["answer_start"], found[0]["num_thought_tokens"]) == (25, 25)
    scores = score_records("gsm8k", items, found)
    assert [one["outcome"] for one in scores] == ["correct"] * 4
    assert [one.get("is_thought_cut") for one in scores] == [True, None, False, True], (
        "without a thought nothing is said of one"
    )
    score = aggregate("gsm8k", scores, 4)
    assert (score["thoughts"]["share"], score["thoughts"]["unfinished"], score["thoughts"]["cut"]) == (75.0, 0.0, 50.0)
    note = thoughts_note("gsm8k", {"base": score})
    assert note is not None and "0.0 % end in mid-thought, and 50.0 % met the limit of thoughts and were ended there" in note
