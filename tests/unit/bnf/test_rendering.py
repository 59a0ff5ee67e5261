"""Rendering: exact borders, terminators and audits, on the real tokenizer of the demonstration model."""

import json
import shutil
from pathlib import Path

import pytest

from bnf.data.rendering import (
    Rendered,
    Renderer,
    RenderingError,
    load_tokenizer,
    prompt_text,
    render_prompt,
    stop_token_ids,
)
from tests.unit.rendering import render_completion

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


def _llama3(tmp_path):
    """A template in the form of Llama 3's, with this tokenizer's control tokens as header, end of header and end of turn."""
    template = (
        "{{ '<|endoftext|>' }}{% for m in messages %}"
        "{{ '<|im_start|>' + m['role'] + '<repo_name>\n' + m['content'] | trim + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant<repo_name>\n' }}{% endif %}"
    )
    return _with(tmp_path, template=template)


def test_many_are_rendered_as_one_by_one_and_a_bad_one_harms_no_other(tokenizer):
    conversations = [
        (HELLO, ["yes", "no<|im_end|>", "\n\nmaybe"]),
        ([*HELLO, {"role": "assistant", "content": "a"}], ["b"]),
        ([{"role": "system", "content": "Be brief."}, *HELLO, {"role": "assistant", "content": "Hi"}, *HELLO], ["12", ""]),
    ]
    rendered = Renderer(tokenizer).render(conversations)
    assert isinstance(rendered[1], RenderingError)
    for number in (0, 2):
        messages, texts = conversations[number]
        assert rendered[number].prompt_ids == render_prompt(tokenizer, messages)
        for text, ids in zip(texts, rendered[number].completions, strict=True):
            if "<|" in text:
                assert isinstance(ids, RenderingError) and "no control token, got ['<|im_end|>']" in str(ids)
            else:
                assert ids == render_completion(tokenizer, messages, text)


@pytest.mark.parametrize("text", ["yes", " yes ", "12\n\n- 3"])
def test_ids_after_the_last_control_token_are_those_of_the_whole(tmp_path, text):
    tokenizer = _llama3(tmp_path)
    (rendered,) = Renderer(tokenizer).render([(HELLO, [text])])
    whole = tokenizer.apply_chat_template([*HELLO, {"role": "assistant", "content": text}], return_dict=True)["input_ids"]
    assert rendered.prompt_ids + rendered.completions[0] == whole


def test_a_tokenizer_that_does_not_cut_at_control_tokens_is_refused(tokenizer, monkeypatch):
    merging = load_tokenizer(MODEL)
    call = type(merging).__call__

    def odd(self, texts, **options):  # one token more where the text begins in its middle
        encoded = call(self, texts, **options)
        encoded["input_ids"] = [
            ids if text.startswith("<|im_start|>system") else [*ids, 5]
            for text, ids in zip(texts, encoded["input_ids"], strict=True)
        ]
        return encoded

    monkeypatch.setattr(type(merging), "__call__", odd)
    with pytest.raises(ValueError, match="cuts text at special tokens"):
        Renderer(merging).render([(HELLO, ["yes"])])


def test_what_the_template_refuses_is_said(tmp_path):
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}x<|im_end|>"
    with pytest.raises(RenderingError, match=r"got roles \['system', 'user'\], which it refuses: no system here"):
        render_prompt(_with(tmp_path, template=template), [{"role": "system", "content": "s"}, *HELLO])


def test_simpos_span_has_the_header_what_follows_the_end_and_an_eos(tmp_path, tokenizer):
    (turn,), (simpo,) = (Renderer(tokenizer, span).render([(HELLO, ["yes"])]) for span in ("turn", "simpo"))
    assert isinstance(turn, Rendered) and isinstance(simpo, Rendered)
    header = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    assert simpo.prompt_ids + header == turn.prompt_ids
    assert simpo.completions[0] == [*header, *turn.completions[0], NEWLINE, IM_END]  # the line break, and then EOS
    # Nothing follows the end of the turn in Llama 3's form, so nothing is added.
    llama = _llama3(tmp_path)
    (simpo,) = Renderer(llama, "simpo").render([(HELLO, ["yes"])])
    assert llama.decode(simpo.prompt_ids) == "<|endoftext|><|im_start|>user<repo_name>\nHello 12<|im_end|>"
    assert llama.decode(simpo.completions[0]) == "<|im_start|>assistant<repo_name>\nyes<|im_end|>"
