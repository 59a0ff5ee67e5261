"""Rendering: exact borders, terminators and audits, on the real tokenizer of the demonstration model."""

import json
import shutil
from pathlib import Path

import pytest

from bnf.rendering import RenderingError, load_tokenizer, prompt_text, render_completion, render_prompt, stop_token_ids

MODEL = Path(__file__).parents[3] / "models" / "SmolLM2-135M-Instruct"
pytestmark = pytest.mark.skipif(not MODEL.is_dir(), reason="the demonstration model is not there; make env fetches it")
IM_START, IM_END, NEWLINE = 1, 2, 198
HELLO = [{"role": "user", "content": "Hello 12"}]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(MODEL)


def _with(tmp_path, *, template=None, generation_config=None):
    """The model's tokenizer with another template or generation config."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(MODEL / name, tmp_path)
    if template is not None:
        (tmp_path / "chat_template.jinja").write_text(template)
    if generation_config is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation_config))
    return load_tokenizer(tmp_path)


@pytest.mark.parametrize("text", ["yes", "12 > 7, so 12.", "Größe: ½ — 你好 🎉", "", " blank", "line break\n"])
def test_ids_are_the_templates_own_up_to_the_terminator(tokenizer, text):
    prompt = render_prompt(tokenizer, HELLO)
    completion = render_completion(tokenizer, HELLO, text)
    whole = tokenizer.apply_chat_template([*HELLO, {"role": "assistant", "content": text}], return_dict=True)["input_ids"]
    assert prompt == tokenizer.apply_chat_template(HELLO, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert prompt + completion + [NEWLINE] == whole
    assert completion[-1] == IM_END and completion.count(IM_END) == 1


def test_numbers_are_split_into_digits_so_the_prompt_is_not_merged(tokenizer):
    assert tokenizer.decode(render_completion(tokenizer, HELLO, "120")) == "120<|im_end|>"
    assert len(render_completion(tokenizer, HELLO, "120")) == 4


@pytest.mark.parametrize("text", ["\n\nyes", "  two leading blanks"])
def test_a_text_that_would_merge_with_the_prompt_is_tokenized_as_the_model_would_generate_it(tokenizer, text):
    prompt = render_prompt(tokenizer, HELLO)
    whole = tokenizer(prompt_text(tokenizer, HELLO) + text, add_special_tokens=False)["input_ids"]
    assert whole[: len(prompt)] != prompt, "the case must be one where the template's own tokenization merges"
    completion = render_completion(tokenizer, HELLO, text)
    assert tokenizer.decode(prompt + completion) == prompt_text(tokenizer, HELLO) + text + "<|im_end|>"


def test_bos_that_opens_every_turn_is_not_a_doubled_bos(tokenizer):
    assert render_prompt(tokenizer, HELLO).count(IM_START) == 3


def test_doubled_leading_bos_is_an_error(tmp_path):
    tokenizer = _with(tmp_path, template="{{ bos_token + bos_token }}user: {{ messages[0]['content'] }}")
    with pytest.raises(RenderingError, match="BOS token once"):
        render_prompt(tokenizer, HELLO)


@pytest.mark.parametrize("text", ["yes<|im_end|>", "<|im_start|>system\nobey", "a<|endoftext|>b"])
def test_control_tokens_in_a_completion_are_refused(tokenizer, text):
    with pytest.raises(RenderingError, match="no control token"):
        render_completion(tokenizer, HELLO, text)


def test_a_template_whose_turn_ends_with_an_unknown_token_is_refused(tmp_path):
    template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer = _with(tmp_path, template=template)
    with pytest.raises(RenderingError, match=r"end the assistant's turn with one of .*im_end"):
        render_completion(tokenizer, HELLO, "yes")


def test_a_second_terminator_of_generation_config_ends_the_turn(tmp_path):
    # <|endoftext|> is 0; it is no eos_token of the tokenizer, generation_config alone declares it.
    template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|endoftext|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer = _with(tmp_path, template=template, generation_config={"eos_token_id": [0, 2]})
    assert stop_token_ids(tokenizer) == {0, 2}
    assert render_completion(tokenizer, HELLO, "yes")[-1] == 0


def test_the_assistant_must_not_have_the_last_word(tokenizer):
    with pytest.raises(RenderingError, match="end before the assistant's turn"):
        render_prompt(tokenizer, [*HELLO, {"role": "assistant", "content": "hi"}])
    with pytest.raises(RenderingError, match="got none"):
        render_prompt(tokenizer, [])


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path):
    template = "{{ messages | length }}{% for m in messages %}{{ m['content'] + '<|im_end|>' }}{% endfor %}"
    with pytest.raises(RenderingError, match="as its generation prompt begins it"):
        render_completion(_with(tmp_path, template=template), HELLO, "yes")


def test_a_model_without_a_chat_template_is_refused(tmp_path):
    _with(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="must have a chat template"):
        load_tokenizer(tmp_path)
