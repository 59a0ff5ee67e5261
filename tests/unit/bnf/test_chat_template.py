"""What a template leaves out or changes is found, whatever its words; what it only trims, escapes or moves is not a loss."""

import shutil
from pathlib import Path

import pytest

from bnf.data.chat_template import ChatTemplate, LostText, RenderingError, set_date
from bnf.data.rendering import Rendered, Renderer, load_tokenizer, render_prompt

MODEL = Path(__file__).parents[3] / "models" / "SmolLM2-135M-Instruct"
pytestmark = pytest.mark.skipif(not MODEL.is_dir(), reason="the demonstration model is not there; make env fetches it")
ASK = {"role": "user", "content": "Where?"}
# Turns of the roles that stand for %s; their content is written as %s says.
TURNS = (
    "{%% for m in messages %%}{%% if m.role in (%s) %%}{{ '<|im_start|>' + m.role + ': ' + %s + '<|im_end|>' }}{%% endif %%}"
    "{%% endfor %%}"
)


def written(source, messages, **context):
    return template(source).conversation(messages, context)


def template(source, date=None):
    tokenizer = load_tokenizer(MODEL, *([date] if date else []))
    tokenizer.chat_template = source
    return ChatTemplate(tokenizer)


@pytest.mark.parametrize("text", ["user", "assistant: ", "<", "Where?", "x" * 5000])
def test_a_message_that_is_not_written_is_named_even_where_its_words_stand_elsewhere(text):
    source = TURNS % ("'user', 'assistant'", "m.content")
    with pytest.raises(LostText, match=r"got message 0 \(system\) with"):
        written(source, [{"role": "system", "content": text}, ASK])


@pytest.mark.parametrize("text", ["user", "one", "t", "<", ": "])
def test_a_message_that_is_left_out_for_what_it_says_is_named_although_its_words_stand_elsewhere(text):
    source = TURNS % ("'user', 'assistant'", "m.content")
    source = source.replace("m.role in", "m.content | length > 5 and m.role in")
    messages = [{"role": "user", "content": "the first one"}, {"role": "assistant", "content": text}]
    with pytest.raises(LostText, match="got message 1"):
        written(source, [*messages, {"role": "user", "content": "the second one"}])


def test_of_two_messages_with_one_text_each_must_be_written():
    source = "{% for m in messages %}{% if not loop.first %}{{ m.role + ': ' + m.content }};{% endif %}{% endfor %}"
    with pytest.raises(LostText, match="message 0"):
        written(source, [ASK, {"role": "assistant", "content": "There."}, ASK])


@pytest.mark.parametrize(
    "how", ["m.content | lower", "m.content[:8]", "m.content | replace('a', 'b')", "m.content.split('|')[0]", "''"]
)
def test_a_text_that_is_changed_is_lost(how):
    with pytest.raises(LostText):
        written(TURNS % ("'user'", how), [{"role": "user", "content": "Was IST | das and more of it?"}])


@pytest.mark.parametrize(
    "how", ["m.content | trim", "m.content | tojson", "m.content.strip('\\n')", "{'said': m.content} | tojson | tojson"]
)
def test_a_text_that_is_trimmed_or_escaped_is_not(how):
    text = '\n "Wo?" \\ ist\ndas – 你好\n'
    assert "ist" in written(TURNS % ("'user'", f"({how})"), [{"role": "user", "content": text}])


def test_a_system_text_may_move_into_any_turn():
    source = (
        "{% set system = messages[0].content if messages[0].role == 'system' else '' %}{% for m in messages if m.content != system %}"
        "{{ m.role + ': ' + (system + '\n\n' if loop.last else '') + m.content + ';' }}{% endfor %}"
    )
    messages = [{"role": "system", "content": "Be brief."}, ASK, {"role": "assistant", "content": "There."}, ASK]
    assert "Be brief." in written(source, messages)


def test_a_role_that_is_taken_for_the_assistants_is_refused_and_one_that_is_written_is_not():
    messages = [{"role": "critic", "content": "Hm."}, ASK]
    assert "critic: Hm." in written("{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}", messages)
    source = "{% for m in messages %}{{ ('USER: ' if m.role == 'user' else 'BOT: ') + m.content }}{% endfor %}"
    with pytest.raises(LostText, match=r"message 0 with the role 'critic', which it doesn't write"):
        written(source, messages)
    with pytest.raises(LostText, match=r"message 0 with the role 'system', which it writes as the assistant's"):
        written(source, [{"role": "system", "content": "Hm."}, ASK])


@pytest.mark.parametrize(
    "source", [TURNS % ("'user', 'assistant'", "m.content"), "{% for m in messages %}{{ m.content }}{% endfor %}"]
)
def test_an_empty_message_has_nothing_to_lose(source):
    assert "Where?" in written(source, [{"role": "system", "content": " "}, ASK])


def test_developer_is_system_where_the_template_has_no_such_role():
    messages = [{"role": "developer", "content": "Be brief."}, ASK]
    generic = "{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}"
    assert written(generic, messages).startswith("system: Be brief.")
    assert written(generic + "{# 'developer' #}", messages).startswith("developer: Be brief.")


def _calls(*cities, **more):
    calls = [
        {"type": "function", "id": f"c{place}", "function": {"name": f"look{place}", "arguments": {"city": city}}}
        for place, city in enumerate(cities)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls, **more}


CALLS = (
    "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}[{{ c.function | tojson }}]{% endfor %}{{ m.role }};"
    "{% endfor %}"
)


def test_each_call_and_each_argument_is_asked_for():
    assert '"city": "Oslo"' in written(CALLS, [ASK, _calls("Oslo", "Rome")])
    first_alone = CALLS.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
    with pytest.raises(LostText, match="its tool_calls with 'look1'"):
        written(first_alone, [ASK, _calls("Oslo", "Rome")])
    with pytest.raises(LostText, match="its tool_calls with 'city'"):
        written(CALLS.replace("c.function | tojson", "c.function.name"), [ASK, _calls("Oslo")])
    assert written(CALLS, [ASK, _calls(3), {"role": "tool", "content": "warm"}]).count("3") == 1


def test_which_call_a_result_answers_is_said_by_its_place_or_must_be_written():
    results = [
        {"role": "tool", "content": text, "tool_call_id": id, "name": name}
        for text, id, name in (("a", "c0", "look0"), ("b", "c1", "look1"))
    ]
    assert written(CALLS, [ASK, _calls("Oslo", "Rome"), *results])
    with pytest.raises(LostText, match=r"message 2 \(tool\), its tool_call_id with 'c1'"):
        written(CALLS, [ASK, _calls("Oslo", "Rome"), *results[::-1]])


def test_arguments_are_given_as_text_to_templates_that_expect_it():
    source = CALLS.replace("c.function | tojson", "c.function.name + c.function.arguments")
    assert 'look0{"city": "Oslo"}' in written(source, [ASK, _calls("Oslo")])


def test_reasoning_is_given_under_the_name_that_the_template_reads():
    source = "{% for m in messages %}{{ (m.thinking or '') + m.content }}{% endfor %}"
    assert "So." in written(source, [ASK, {"role": "assistant", "content": "There.", "reasoning_content": "So."}])


def test_what_a_template_trips_over_is_its_refusal():
    with pytest.raises(RenderingError, match="which it refuses: can only concatenate"):
        written("{{ 'a' + messages }}", [ASK])


def test_a_completion_that_is_changed_is_refused_or_taken_as_it_is_written(tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(MODEL / name, tmp_path)
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role + ': ' + m.content.split('</think>')[-1] + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer = load_tokenizer(tmp_path)
    given = [([ASK], ["<think>so</think>There.", "There."])]
    (strict,) = Renderer(tokenizer).render(given)
    assert isinstance(strict, Rendered) and isinstance(strict.completions[0], RenderingError)
    assert "prepare.changed_completions=as_rendered" in str(strict.completions[0])
    (taken,) = Renderer(tokenizer, changed="as_rendered").render(given)
    assert taken.completions[0] == taken.completions[1] == strict.completions[1] and taken.changed == {0}


# As DeepSeek-R1's: the prompt begins the thought, and a finished turn has none.
BEGINS_THOUGHT = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>user: ' + m.content }}{% else %}"
    "{{ '<|im_start|>assistant: ' + m.content.split('</think>')[-1] + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant: ' + WORDS }}{% endif %}"
)


def rendered_after(words, *replies, messages=(ASK,)):
    """The prompt and each completion, decoded, or its error."""
    tokenizer = load_tokenizer(MODEL)
    tokenizer.chat_template = BEGINS_THOUGHT.replace("WORDS", repr(words))
    (found,) = Renderer(tokenizer).render([(list(messages), list(replies))])
    assert isinstance(found, Rendered) and not found.changed
    assert found.prompt_ids == render_prompt(tokenizer, list(messages))
    texts = [one if isinstance(one, RenderingError) else tokenizer.decode(one) for one in found.completions]
    return tokenizer.decode(found.prompt_ids), texts


def test_a_thought_that_the_prompt_begins_is_trained_on_as_the_model_generates_it():
    same = ["<think>\nIt is\nthere.\n</think>\n\nThere.", "<think>It is\nthere.\n</think>\n\nThere.\n"]
    prompt, found = rendered_after("<think>\n", *same, "<think>\nEndless.", "There.", "Is it <think>?")
    assert prompt == "<|im_start|>user: Where?<|im_start|>assistant: <think>\n"
    assert found[:2] == ["It is\nthere.\n</think>\n\nThere.<|im_end|>"] * 2
    assert isinstance(found[2], RenderingError), "a thought that doesn't end is no answer"
    for error, begins in zip(found[3:], ("'There.'", "'Is it <think>"), strict=True):
        assert f"a completion must begin with '<think>', as the chat template begins the assistant's turn, got {begins}" in str(
            error
        )
    # An earlier turn of the prompt may be changed by no template.
    with pytest.raises(LostText, match="message 1"):
        written(BEGINS_THOUGHT.replace("WORDS", "''"), [ASK, {"role": "assistant", "content": same[0]}, ASK])
    earlier = [ASK, {"role": "assistant", "content": "There."}, ASK]
    assert rendered_after("<think>\n", same[0], messages=earlier)[1] == found[:1]


@pytest.mark.parametrize("words", ["<think>\n\n</think>\n\n", "[THINK][/THINK]", "<|START_THINKING|><|END_THINKING|>"])
def test_a_reply_follows_a_thought_that_the_prompt_ends(words):
    reasoned = {"role": "assistant", "content": "There.", "reasoning_content": "I see it."}
    prompt, found = rendered_after(words, "There.", " <think> begins it.", reasoned)
    assert prompt.endswith(f"assistant: {words}")
    assert found[:2] == ["There.<|im_end|>", "<think> begins it.<|im_end|>"]
    assert isinstance(found[2], RenderingError), "the reasoning, which the template doesn't write, would be lost"


def test_a_template_that_begins_a_finished_turn_otherwise_is_refused():
    other = "{% if add_generation_prompt %}{{ '<|im_start|>model: ' }}{% endif %}" + TURNS % (
        "'user', 'assistant'",
        "m.content",
    )
    for reply in ("There.", {"role": "assistant", "content": "There.", "reasoning": "I see it."}):
        tokenizer = load_tokenizer(MODEL)
        tokenizer.chat_template = other
        ((error,),) = [one.completions for one in Renderer(tokenizer).render([([ASK], [reply])])]
        assert "must write a finished turn as its generation prompt begins it, got another beginning" in str(error)


def test_a_models_own_earlier_turns_may_lose_their_reasoning_and_nothing_else():
    source = "{% for m in messages %}{{ m.role + ': ' + m.content.split('</think>')[-1] + ';' }}{% endfor %}"
    messages = [ASK, {"role": "assistant", "content": "so</think>There."}, ASK]
    with pytest.raises(LostText, match="message 1"):
        template(source).conversation(messages)
    assert template(source).conversation(messages, own_turns="as_written").count("Where?") == 2
    with pytest.raises(LostText, match="message 0"):
        template(source).conversation([{"role": "user", "content": "a</think>b"}, *messages[1:]], own_turns="as_written")
    users_alone = TURNS % ("'user'", "m.content")
    with pytest.raises(LostText, match="message 1"):
        template(users_alone).conversation(messages, own_turns="as_written")


@pytest.mark.parametrize(
    "asked", ["strftime_now('%d %b %Y')", "date_string", "strftime_now('%d %b %Y') if strftime_now is defined else ''"]
)
def test_every_template_is_told_the_one_day(asked):
    source = "{{ " + asked + " }}: {% for m in messages %}{{ m.content }}{% endfor %}"
    assert template(source).conversation([ASK]) == "26 Jul 2024: Where?"
    assert template(source, "2031-02-03").conversation([ASK]) == "03 Feb 2031: Where?"
    tokenizer = load_tokenizer(MODEL, "2031-02-03")
    tokenizer.chat_template = source
    assert tokenizer.decode(render_prompt(tokenizer, [ASK])) == "03 Feb 2031: Where?"


def test_a_day_without_a_time_has_its_first_second():
    assert template("{{ strftime_now('%H:%M:%S') }}{{ messages[0].content }}").conversation([ASK]) == "00:00:00Where?"


@pytest.mark.parametrize("date", ["today", "2024-2-3", "2024-02-30", ""])
def test_what_is_no_day_is_refused(date):
    with pytest.raises(ValueError, match="date must be a day as YYYY-MM-DD, got"):
        set_date(load_tokenizer(MODEL), date)
