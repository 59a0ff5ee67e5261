"""A model's chat template with a recipe's values in it: what it writes is what the template writes when it is given the values."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from bnf.data.chat_template import ChatTemplate
from bnf.data.rendering import load_tokenizer, prompt_text
from bnf.model.digests import model_digest
from bnf.model.served import served_otherwise, write_alignment
from bnf.model.templates import own_template, templated, values_in, with_values, write_templated

# As templates of models that think are: a switch, and earlier turns without what was thought.
REASONING = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}"
    "{%- if m.role == 'assistant' and not loop.last %}{{- m.content.split('</think>')[-1] }}{% else %}{{- m.content }}{% endif %}"
    "{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
    "{%- if note is defined %}{{- note }}{%- endif %}"
)
QUESTION = [{"role": "user", "content": "2 + 2?"}]


@pytest.fixture
def model(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A model with a reasoning template."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "chat_template.jinja").write_text(REASONING)
    return folder


def rendered(template: str, folder: Path, **values: object) -> str:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer.apply_chat_template(QUESTION, chat_template=template, tokenize=False, add_generation_prompt=True, **values)


@pytest.mark.parametrize(
    "values",
    [
        {"enable_thinking": False},
        {"enable_thinking": True, "note": None},
        {"note": 'a #} -#} -%} {{ x }} "q" \\ é😀\n{% if %}'},
        {"note": {"k": [1, -2.5, None, True, "x"]}},
        {"note": ""},
    ],
)
def test_values_in_the_template_are_values_given_to_it(model: Path, values: dict[str, object]):
    made = with_values(REASONING, values)
    assert rendered(made, model) == rendered(REASONING, model, **values)
    assert values_in(made) == values and values_in(REASONING) == {}


def test_a_caller_may_say_other_values(model: Path):
    made = with_values(REASONING, {"enable_thinking": False})
    assert rendered(made, model, enable_thinking=True) == rendered(REASONING, model, enable_thinking=True)


@pytest.mark.parametrize("start", ["", "\n\n  ", "{%- set note = 'own' %}\n", "{#- a comment #}\n"])
def test_values_said_twice_stand_there_once_and_the_rest_stays(model: Path, start: str):
    plain = start + REASONING
    once = with_values(plain, {"enable_thinking": True})
    assert with_values(with_values(plain, {"enable_thinking": False}), {"enable_thinking": True}) == once
    assert with_values(once, {"enable_thinking": True}) == once
    assert rendered(once, model) == rendered(plain, model, enable_thinking=True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"enable_thinkng": False},
            "variables that the chat template reads, got enable_thinkng; it reads enable_thinking, note",
        ),
        ({"messages": []}, "got messages: the rows say it"),
        ({"strftime_now": "x"}, "got strftime_now: `date` says it"),
    ],
)
def test_a_variable_that_nothing_reads_or_something_else_says_is_refused(values: dict[str, object], said: str):
    with pytest.raises(ValueError, match=said):
        with_values(REASONING, values)


@pytest.mark.parametrize(
    "template",
    [
        "{% if terse %}Short.{% endif %}",
        "{% if terse is defined and terse is false %}Long.{% endif %}",
        "{% if not terse | default(false) %}Long.{% endif %}",
    ],
)
def test_a_word_for_a_switch_is_refused_where_it_would_be_true(template: str):
    # `no` and `off` are text in a recipe, and any text is true to a template.
    with pytest.raises(
        ValueError, match=r"^chat_template_kwargs\.terse must be true or false, .* got the text 'no', .*; write false$"
    ):
        with_values(template, {"terse": "no"})
    with pytest.raises(ValueError, match=r"got the text 'On', .*; write true$"):
        with_values(template, {"terse": "On"})
    assert with_values(template, {"terse": False}).endswith(template)


@pytest.mark.parametrize(
    "template",
    [
        "thinking {{ terse }}",
        "{% if terse == 'no' %}Long.{% endif %}",
        "{% set mode = terse %}{{ mode }}",
        "{% for one in terse %}{{ one }}{% endfor %}",
    ],
)
def test_a_text_that_the_template_reads_as_one_is_kept(template: str):
    assert with_values(template, {"terse": "no"}).endswith(template)


def test_the_folder_links_to_the_model_and_renders_with_the_values(model: Path, tmp_path: Path):
    made = tmp_path / "made"
    write_templated(model, made, templated(model, None, {"enable_thinking": False}))
    assert prompt_text(load_tokenizer(made), QUESTION) == rendered(REASONING, model, enable_thinking=False)
    assert (made / "model.safetensors").is_symlink() and not (made / "chat_template.jinja").is_symlink()
    assert model_digest(made) != model_digest(model)
    # The model's own folder is as it was.
    assert own_template(model) == REASONING


def test_a_file_stands_in_for_every_template_of_the_model(model: Path, tmp_path: Path):
    more = model / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text("tools: {{ messages }}")
    file = tmp_path / "own.jinja"
    file.write_text("{% for m in messages %}{{ m.content }}{% endfor %}{{ note }}")
    with pytest.raises(ValueError, match="chat_template_kwargs must be left out for a model of several chat templates"):
        templated(model, None, {"enable_thinking": False})
    made = tmp_path / "made"
    write_templated(model, made, templated(model, file, {"note": "!"}))
    assert prompt_text(load_tokenizer(made), QUESTION) == "2 + 2?!"
    assert not (made / "additional_chat_templates").exists()


@pytest.mark.parametrize("text", ["{% for m in messages %}", "", b"\xff\xfe"])
def test_a_file_that_is_no_template_is_refused(model: Path, tmp_path: Path, text: str | bytes):
    file = tmp_path / "own.jinja"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"chat_template must be a file with a Jinja template, got .*own\.jinja"):
        templated(model, file, {})


def test_several_templates_in_the_tokenizer_s_config_are_not_reduced_to_one(model: Path):
    (model / "chat_template.jinja").unlink()
    config = json.loads((model / "tokenizer_config.json").read_text())
    named = [{"name": "default", "template": REASONING}, {"name": "tool_use", "template": "tools"}]
    (model / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": named}))
    with pytest.raises(ValueError, match="must be left out for a model of several chat templates"):
        templated(model, None, {"enable_thinking": False})


@pytest.mark.parametrize(
    "start", ["{#- chat_template_kwargs {not json} #}\n", '{#- chat_template_kwargs {"note": 1} #}\n{%- set other = 2 %}\n']
)
def test_lines_that_only_look_like_those_of_values_stay(start: str):
    assert values_in(start + REASONING) == {}
    assert with_values(start + REASONING, {"note": 1}).endswith(start + REASONING)


def test_a_switch_called_as_rows_call_their_reasoning_hides_no_reasoning(model: Path, tmp_path: Path):
    """The rows' key `thinking` becomes what the template reads, `reasoning_content`: a switch called `thinking` is another."""
    text = (
        "{%- for m in messages %}{{- m.role + ':' + m.reasoning_content | default('') + m.content + '<|im_end|>' }}{% endfor %}"
        "{%- if thinking %}!{% endif %}"
    )
    (model / "chat_template.jinja").write_text(text)
    made = tmp_path / "made"
    write_templated(model, made, templated(model, None, {"thinking": True}))
    messages = [*QUESTION, {"role": "assistant", "content": "4", "thinking": "2 and 2"}]
    assert "2 and 2" in ChatTemplate(load_tokenizer(made)).conversation(messages)


def test_a_template_is_found_where_older_models_have_it(tmp_path: Path):
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "old"}))
    assert own_template(tmp_path) == "old"
    config.write_text(
        json.dumps({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]})
    )
    assert own_template(tmp_path) == "d"
    (tmp_path / "chat_template.jinja").write_text("new")
    assert own_template(tmp_path) == "new"
    config.write_text("[]")
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match=r"tokenizer_config\.json must be a JSON object"):
        own_template(tmp_path)


def test_a_policy_is_served_as_it_was_trained(model: Path, tmp_path: Path):
    """The policy of a training with `enable_thinking: false`: what is left out is as it was trained, anything else is refused."""
    policy = tmp_path / "policy"
    write_templated(model, policy, templated(model, None, {"enable_thinking": False}))
    assert served_otherwise(policy, None, {"enable_thinking": True}, "Be brief.", "2026-01-01") is None  # nobody noted anything
    write_alignment(policy, None, "2024-07-26")
    assert served_otherwise(policy, None, {}, None, "2024-07-26") is None
    assert served_otherwise(policy, None, {"enable_thinking": False}, None, "2024-07-26") is None
    said = served_otherwise(policy, None, {"enable_thinking": True}, None, "2024-07-26")
    assert said is not None and said.startswith("chat_template_kwargs.enable_thinking must be false, as the policy in ")
    assert "got true; set it so, or leave it out, or evaluate a copy of the folder without alignment.json" in said
    said = served_otherwise(policy, None, {"note": 1}, None, "2024-07-26")
    assert said is not None and said.startswith("chat_template_kwargs.note must be left out,") and "got 1;" in said
    other = tmp_path / "other.jinja"
    other.write_text("{{ messages }}")
    said = served_otherwise(policy, other, {}, None, "2024-07-26")
    assert (
        said is not None
        and said.startswith("chat_template must be the policy's own,")
        and "got another; leave it out, or" in said
    )
    said = served_otherwise(policy, None, {}, "Be brief.", "2024-07-26")
    assert said is not None and said.startswith("system_prompt must be left out,") and "got Be brief.;" in said
    # A template that doesn't ask for the day is the same on any.
    assert served_otherwise(policy, None, {}, None, "2026-01-01") is None


def test_the_day_counts_where_the_template_asks_for_it(model: Path, tmp_path: Path):
    (model / "chat_template.jinja").write_text("{{ strftime_now('%Y') }}{% for m in messages %}{{ m.content }}{% endfor %}")
    write_alignment(model, "Be brief.", "2024-07-26")
    said = served_otherwise(model, None, {}, "Be brief.", "2026-01-01")
    assert said is not None and said.startswith("date must be 2024-07-26, as the policy in ")
    said = served_otherwise(model, None, {}, None, "2024-07-26")
    assert said is not None and said.startswith("system_prompt must be Be brief., as")


def test_a_note_that_cannot_be_read_is_an_error(model: Path):
    (model / "alignment.json").write_text("{}")
    with pytest.raises(ValueError, match=r"alignment\.json must say what the policy was trained with, got KeyError"):
        served_otherwise(model, None, {}, None, "2024-07-26")
