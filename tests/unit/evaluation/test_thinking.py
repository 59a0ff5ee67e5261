"""Thoughts with a limit: what is put in, what is on record, and what isn't touched. A token is a character here."""

import copy
import json
import queue
import threading
import time
from pathlib import Path

import pytest
from tokenizers import AddedToken

from evaluation.answers.thoughts import spoken
from evaluation.generation import samples, thinking
from evaluation.generation.completion_cache import CompletionCache
from evaluation.generation.generate import generate
from evaluation.generation.samples import generate_samples
from evaluation.generation.thinking import ThinkingEngine, thinking_engine, with_markers
from evaluation.report.summary import _thoughts as thoughts_note
from evaluation.scoring.score import aggregate, score_records
from evaluation.types import Generation, Sampling
from tests.unit.evaluation.fake_engine import no_progress

MODEL = Path(__file__).parents[3] / "models" / "SmolLM2-135M-Instruct"
MARKERS = ("<think>", "</think>")
END = "\n</think>"


class Characters:
    """A tokenizer with a token for each character, and with special tokens of their own."""

    def __init__(self, **special):
        self._special = dict(enumerate(special.values()))
        self.added_tokens_decoder = {token: AddedToken(text, special=True) for token, text in self._special.items()}
        self.all_special_ids, self.all_special_tokens = [*self._special], [*self._special.values()]
        self.eos_token = special.get("eos")

    def __call__(self, text, add_special_tokens=True):
        for token, name in self._special.items():
            text = text.replace(name, chr(token))
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids, skip_special_tokens=False, clean_up_tokenization_spaces=False):
        shown = {} if skip_special_tokens else self._special
        return "".join(shown.get(token, "" if token in self._special else chr(token)) for token in ids)


class Model:
    """A model that wants to say a text after each question, and after a thought's end something short."""

    takes, supports_choices, version = "ids", True, "model 1"

    def __init__(self, says, after="4.", max_model_len=None):
        self.says, self.after, self.max_model_len = says, after, max_model_len
        self.calls, self.seeds = [], []

    def generate(self, prompts, sampling, received=None):
        self.calls.append((len(prompts), sampling))
        for index, ids in enumerate(prompts):
            question, _, written = "".join(map(chr, ids)).partition("?")
            text = self.says[question]
            if not text.startswith(written):
                assert written.endswith(END), "what was put in ends the prompt"
                text = written + self.after
            room = len(text) if self.max_model_len is None else self.max_model_len - len(ids)
            if room < 1:
                yield index, [Generation("", [], "prompt_too_long", len(ids), 0)] * sampling.n
                continue
            rest = text[len(written) :]
            said = rest[: min(sampling.max_new_tokens, room)]
            one = Generation(said, [ord(letter) for letter in said], "stop" if said == rest else "length", len(ids), len(said))
            yield index, [one] * sampling.n

    def loglikelihoods(self, pairs):
        yield from enumerate((float(len(rest)), True) for _, rest in pairs)

    def reseed(self, seed):
        self.seeds.append(seed)

    def close(self):
        pass


def said(model, budget, sampling, *questions):
    """The completions of questions, each as (text, how it ended, whether its thought was cut)."""
    engine = ThinkingEngine(model, Characters(), MARKERS, budget)
    prompts = [[ord(letter) for letter in f"{question}?"] for question in questions]
    found = dict(engine.generate(prompts, sampling))
    for index, (one, *_) in found.items():
        assert one.token_ids == [ord(letter) for letter in one.completion]
        assert one.num_completion_tokens == len(one.completion) and one.num_prompt_tokens == len(prompts[index])
    return [[(one.completion, one.finish_reason, one.is_thought_cut) for one in found[index]] for index in range(len(prompts))]


LONG = "<think>one two three four</think>\n\n44."


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


def test_replicas_share_chunks_out_with_the_limit_on_each(monkeypatch):
    """A chunk is one replica's: were it split, its random numbers would depend on how many there are."""
    replicas, chunks = [Model({"a": LONG}), Model({"a": LONG})], [[[97, 63]], [[97, 63]]]

    def each_its_own(engines, chunks, work):
        for engine, chunk in zip(engines, chunks, strict=True):
            yield from work(engine, chunk)

    monkeypatch.setattr(thinking, "share_chunks", each_its_own)
    shared = ThinkingEngine(FakeReplicas(replicas), Characters(), MARKERS, 11)
    found = shared.share_chunks(chunks, lambda engine, chunk: engine.generate(chunk, Sampling(60)))
    assert [one.is_thought_cut for _, (one,) in found] == [True, True] and [len(each.calls) for each in replicas] == [2, 2]


class OneAtATime(Characters):
    """A tokenizer that notes where a second thread uses it while a first one does, as the fast ones refuse it."""

    def __init__(self):
        super().__init__()
        self._busy, self.met, self.threads = threading.Lock(), 0, set()

    def _use(self, work):
        self.threads.add(threading.get_ident())
        is_free = self._busy.acquire(blocking=False)
        self.met += not is_free
        try:
            time.sleep(0.002)
            return work()
        finally:
            if is_free:
                self._busy.release()

    def __call__(self, *args, **options):
        return self._use(lambda: super(OneAtATime, self).__call__(*args, **options))

    def decode(self, *args, **options):
        return self._use(lambda: super(OneAtATime, self).decode(*args, **options))


def in_threads(engines, chunks, work):
    """As `share_chunks` has it: each replica in a thread of its own, and the results in the caller's."""
    found, waiting = queue.Queue(), queue.Queue()
    for chunk in chunks:
        waiting.put(chunk)

    def serve(engine):
        while True:
            try:
                chunk = waiting.get_nowait()
            except queue.Empty:
                return
            for result in work(engine, chunk):
                found.put(result)

    threads = [threading.Thread(target=serve, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or not found.empty():
        try:
            yield found.get(timeout=0.01)
        except queue.Empty:
            continue


def test_replicas_and_the_writer_use_the_tokenizer_one_at_a_time(monkeypatch, tmp_path):
    says = {letter: "<think>one two three</think>4" for letter in "abcdefgh"}
    tokenizer = OneAtATime()
    engine = ThinkingEngine(FakeReplicas([Model(says), Model(says)]), tokenizer, MARKERS, 11)
    items = [{"id": letter, "question": letter} for letter in says]
    prompts = [[ord(letter), 63] for letter in says]
    monkeypatch.setattr(thinking, "share_chunks", in_threads)
    monkeypatch.setattr(samples, "CHUNK_ITEMS", 1)
    monkeypatch.setattr(samples, "rendered", lambda *_: (prompts, [f"{letter}?" for letter in says]))
    sampling, messages = Sampling(60, temperature=0.7), lambda item: [{"role": "user", "content": item["question"]}]
    generate_samples(engine, tokenizer, items, messages, sampling, 2, tmp_path, no_progress, own_seeds=False)
    assert len((tmp_path / "completions.jsonl").read_text().splitlines()) == 16
    assert tokenizer.met == 0 and len(tokenizer.threads) == 3


class FakeReplicas(list):
    version, max_model_len = "replicas 1", None


def test_choices_and_likelihoods_pass_through():
    model = Model({"a": LONG})
    assert said(model, 3, Sampling(60, choices=["x"]), "a") == [[(LONG, "stop", False)]] and len(model.calls) == 1
    assert dict(ThinkingEngine(model, Characters(), MARKERS, 3).loglikelihoods([([1], [2, 3])])) == {0: (2.0, True)}


def test_the_end_stands_in_no_quotation():
    """Between backticks it would be one, and the thought would seem to go on."""
    found = said(Model({"a": "<think>see `x` and more</think>4"}, after="` is 4"), 12, Sampling(60), "a")
    assert found == [[(f"<think>see `{END}` is 4", "stop", True)]] and spoken(found[0][0][0]) == "` is 4"


class Speaks:
    """An engine that writes these tokens of each prompt, and decodes without special ones, as engines do."""

    takes, supports_choices, version, max_model_len = "ids", True, "speaks 1", None

    def __init__(self, tokenizer, *texts):
        self.tokenizer, self.texts, self.asked = tokenizer, texts, []

    def generate(self, prompts, sampling, received=None):
        for index, ids in enumerate(prompts):
            self.asked.append(ids)
            written = self.tokenizer(self.texts[len(self.asked) - 1])["input_ids"]
            said = written[: sampling.max_new_tokens]
            text = self.tokenizer.decode(said, skip_special_tokens=True)
            yield index, [Generation(text, said, "stop" if said == written else "length", len(ids), len(said))]


def test_markers_that_are_special_tokens_stay_in_the_text_and_no_other_special_token_does():
    tokenizer = Characters(begin="[THINK]", end="[/THINK]", eos="</s>")
    markers = ("[THINK]", "[/THINK]")
    engine = thinking_engine(Speaks(tokenizer, "[THINK]so[/THINK]4</s>", "4</s>"), tokenizer, markers)
    found = dict(engine.generate([[97], [98]], Sampling(60)))
    assert [(one.completion, one.num_completion_tokens) for (one,) in (found[0], found[1])] == [
        ("[THINK]so[/THINK]4", 6),
        ("4", 2),
    ]
    assert found[0][0].is_thought_cut is None and found[0][0].token_ids == [0, 115, 111, 1, 52, 2]
    assert thinking_engine(engine, tokenizer, markers) is engine
    # Where decoding keeps them anyway the engine stays as it is.
    plain = Speaks(tokenizer)
    assert thinking_engine(plain, tokenizer, MARKERS) is plain


@pytest.mark.skipif(not MODEL.is_dir(), reason="the demonstration model is not there; make env fetches it")
def test_a_real_tokenizer_s_text_is_what_decoding_gives_and_the_markers(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = copy.deepcopy(AutoTokenizer.from_pretrained(MODEL))
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    whole = with_markers(tokenizer, ("[THINK]", "[/THINK]"))
    assert whole is not None and with_markers(tokenizer, MARKERS) is None
    for text in ("[THINK]so , it's 4.[/THINK]\n\n 4 — é", " it 's \n4 — é"):
        ids = tokenizer(f"{text}<|im_end|>", add_special_tokens=False)["input_ids"]
        assert whole(Generation("", ids, "stop", 1, len(ids))).completion == text
        plain = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert plain == text.replace("[THINK]", "").replace("[/THINK]", "")


def test_a_thought_between_special_tokens_has_a_limit_too():
    tokenizer = Characters(begin="[THINK]", end="[/THINK]", eos="</s>")
    speaks = Speaks(tokenizer, "[THINK]one two three", "4</s>")
    engine = thinking_engine(speaks, tokenizer, ("[THINK]", "[/THINK]"), 5)
    ((_, (one,)),) = engine.generate([[97]], Sampling(60))
    assert (one.completion, one.is_thought_cut) == ("[THINK]one \n[/THINK]4", True)
    assert speaks.asked[1] == [97, 0, *map(ord, "one "), 10, 1]


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
