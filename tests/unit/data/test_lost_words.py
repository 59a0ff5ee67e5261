"""Every form that data sets have, through every kind of chat template: a row is kept with all of its words, or refused with the reason."""

import pytest

from bnf.data.rendering import load_tokenizer
from tests.unit.data.helpers import needs_model
from tests.unit.data.lost_words import FORMS, lost_words, render, renderer, templates

pytestmark = needs_model
EVERY = "chatml gemma harmony llama2 llama3 qwen25 qwen3 strips vicuna"
# form → the templates that can write all of it
KEPT = {
    "text": EVERY,
    "text with blanks around": EVERY,
    "text in brackets": EVERY,
    "system and user": "chatml harmony llama2 llama3 qwen25 qwen3",
    "system in the middle": "chatml harmony llama3 qwen25 qwen3",
    "developer and user": "chatml harmony llama2 llama3 qwen25 qwen3",
    "ShareGPT": EVERY,
    "roles in capitals": EVERY,
    "prompter and model": EVERY,
    "a role of its own": "chatml llama3",
    "the same text twice": EVERY,
    "function_call and observation": "harmony llama3 qwen25",
    "a call": "harmony llama3 qwen25",
    "a call without content": "harmony llama3 qwen25",
    "a call with content": "harmony qwen25",
    "an older function_call": "harmony llama3 qwen25",
    "tools": "harmony qwen25",
    "tools as JSON, and a call": "harmony qwen25",
    "completions that call": "harmony qwen25",
    "documents": "harmony",
    "reasoning_content": "harmony qwen3",
    "thinking": "harmony qwen3",
    "reasoning in the text": "chatml gemma harmony llama2 llama3 qwen25 qwen3 vicuna",
    "reasoning in an earlier turn": "chatml gemma harmony llama2 llama3 qwen25 vicuna",
    "a user's name": "harmony",
    "a system column": "chatml harmony llama2 llama3 qwen25 qwen3",
    "Alpaca's input": EVERY,
    "parts of text": EVERY,
    "an image": "",
    "a text beside whole conversations": "chatml harmony llama2 llama3 qwen25 qwen3",
    "conversations as JSON": EVERY,
    "conversations as Python prints them": "",
    "conversations as NumPy prints them": "",
    "a column that nothing reads": EVERY,
}


@pytest.fixture(scope="module", params=list(templates()))
def template(request, tmp_path_factory):
    """(name, its rows' renderer, its tokenizer)"""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, renderer(templates()[request.param], folder), load_tokenizer(folder)


@pytest.mark.parametrize("form", FORMS)
def test_a_row_keeps_every_word_or_says_what_it_would_lose(template, form):
    name, rows, tokenizer = template
    row = render(rows, form)
    assert (not row.outcome) == (name in KEPT[form].split()), row.detail
    if row.outcome:
        assert row.outcome in ("unrenderable", "bad_schema") and "got" in row.detail
    else:
        assert lost_words(FORMS[form][0], row, lambda ids: tokenizer.decode(list(ids))) == []
