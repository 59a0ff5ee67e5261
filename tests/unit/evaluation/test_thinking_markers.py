"""Markers of thoughts that are special tokens: they stay in the text, and a limit holds between them. A token is a character here."""

import copy
from pathlib import Path

import pytest

from evaluation.generation.thinking import thinking_engine, with_markers
from evaluation.types import Generation, Sampling
from tests.unit.evaluation.thinking_models import MARKERS, Characters

MODEL = Path(__file__).parents[3] / "models" / "SmolLM2-135M-Instruct"


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
