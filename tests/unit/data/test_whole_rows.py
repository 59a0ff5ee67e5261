"""What stands beside a row's texts counts: inputs, systems, tools and calls tell rows apart, and columns that nothing reads are named."""

import json
import shutil

import pytest

from bnf.data.groups import read_groups
from bnf.data.rendering import load_tokenizer
from data.parse import Parser
from data.preparing.config import PrepareConfig
from data.preparing.prepare import prepare_sources
from data.reading.records import Bad, DataSource, Raw
from data.sampling.prompts import load_prompts
from data.sampling.sample import SampleConfig, sample_prompts
from tasks.stages.prepare import outcome
from tests.unit.data.helpers import MODEL, ledger, needs_model, prepare, write_rows
from tests.unit.data.lost_words import TOOL, assistant, call, templates, user
from tests.unit.evaluation.fake_engine import FakeEngine, no_progress

pytestmark = needs_model
SIDES = {"chosen": "yes", "rejected": "no"}


def parse(record, source="pairs", **columns):
    return Parser(DataSource(source, "x", columns))(Raw("", 1, record))[1]


def prepared(tmp_path, template, rows, *, columns=None, **settings):
    """(decoded groups as (prompt, completions), ledger's rows, its counts) through one of the test templates."""
    model = tmp_path / "model"
    model.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(MODEL / name, model)
    shutil.copy(templates()[template], model / "chat_template.jinja")
    source = DataSource("pairs", str(write_rows(tmp_path / "rows.jsonl", rows)), columns or {})
    config = PrepareConfig(max_dropped_share=1.0, **settings)
    prepare_sources([source], model, tmp_path / "out", config, num_proc=1, progress=no_progress)
    decode = load_tokenizer(model).decode
    groups = [
        (decode(one.prompt_ids), [decode(each.token_ids) for each in one.completions]) for one in read_groups(tmp_path / "out")
    ]
    return groups, *ledger(tmp_path / "out")


def test_two_inputs_of_one_instruction_are_two_prompts(tmp_path):
    rows = [{"instruction": "Translate.", "input": text, **SIDES} for text in ("Morning", "Evening", " ")]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    groups, _, counts = prepare(tmp_path / "out", DataSource("pairs", str(path), {"prompt": "instruction"}))
    assert len(groups) == counts["num_groups"] == 3 and "columns_not_read" not in counts
    texts = [
        json.loads(line)["messages"][0]["content"] for line in (tmp_path / "out" / "groups.jsonl").read_text().splitlines()
    ]
    assert texts == ["Translate.\n\nMorning", "Translate.\n\nEvening", "Translate."]


def test_an_input_beside_another_prompt_is_read_where_columns_name_it_and_else_named():
    record = {"prompt": "Translate.", "input": "Morning", **SIDES}
    assert parse(record).unread == ("input",) and parse(record).messages == [user("Translate.")]
    assert parse(record, input="input").messages == [user("Translate.\n\nMorning")]


def test_a_system_column_comes_first_and_may_not_contradict_the_messages():
    row = parse({"system": "Be brief.", "prompt": [user("Hi")], **SIDES})
    assert row.messages == [{"role": "system", "content": "Be brief."}, user("Hi")]
    own = [{"role": "system", "content": "Be brief."}, user("Hi")]
    assert parse({"system": " Be brief.", "prompt": own, **SIDES}).messages == own
    assert parse({"system": " ", "prompt": "Hi", **SIDES}).messages == [user("Hi")]
    bad = parse({"system": "Be long.", "prompt": own, **SIDES})
    assert isinstance(bad, Bad) and "system must be the messages' own system message" in bad.detail


def test_different_calls_are_no_identical_pair_and_what_they_call_is_trained(tmp_path):
    rows = [
        {
            "prompt": [user("Where?")],
            "chosen": [assistant("", tool_calls=[call("Oslo")])],
            "rejected": [assistant("", tool_calls=[call("Rome")])],
        }
    ]
    ((_, (chosen, rejected)),), entries, _ = prepared(tmp_path, "qwen25", rows)
    assert entries[0]["outcome"] == "kept" and '"zzplace": "Oslo"' in chosen and '"zzplace": "Rome"' in rejected
    same = [{**rows[0], "rejected": rows[0]["chosen"]}]
    with pytest.raises(ValueError, match="1 identical_pair"):
        prepared(tmp_path, "qwen25", same)


def test_tools_are_part_of_the_prompt_in_ids_groups_and_samples(tmp_path):
    other = {**TOOL, "function": {**TOOL["function"], "name": "go"}}
    rows = [{"prompt": "Where?", "tools": [tool], **SIDES} for tool in (TOOL, other, TOOL)]
    groups, entries, _ = prepared(tmp_path, "qwen25", rows)
    assert [entry["outcome"] for entry in entries] == ["kept", "kept", "duplicate"]
    assert ['"zzlook"' in prompt for prompt, _ in groups] == [True, False] and '"go"' in groups[1][0]
    lines = [json.loads(line) for line in (tmp_path / "out" / "groups.jsonl").read_text().splitlines()]
    assert [line["tools"] for line in lines] == [[TOOL], [other]]
    prompts = load_prompts("prompts", str(tmp_path / "rows.jsonl"), 2)
    assert [prompt["tools"] for prompt in prompts] == [[TOOL], [other]] and prompts[0]["id"] != prompts[1]["id"]
    tokenizer = load_tokenizer(tmp_path / "model")
    config = SampleConfig("prompts", 2, 1, [0.0], 1.0, 8, 0)
    asked = [{**prompt, "held_out": False} for prompt in prompts]
    sample_prompts(FakeEngine(takes="ids"), tokenizer, asked, config, tmp_path / "samples", no_progress)
    sampled = [json.loads(line) for line in (tmp_path / "samples" / "samples.jsonl").read_text().splitlines()]
    assert [tokenizer.decode(record["prompt_ids"]) for record in sampled] == [prompt for prompt, _ in groups]


def test_a_prompt_that_the_template_does_not_write_is_not_sampled(tmp_path):
    prepared(tmp_path, "strips", [{"prompt": "Hi", **SIDES}])
    asked = [{"id": "p", "messages": [{"role": "system", "content": "Be brief."}, user("Hi")], "item": {}, "held_out": False}]
    config = SampleConfig("prompts", 1, 1, [0.0], 1.0, 8, 0)
    with pytest.raises(ValueError, match=r"sample\.path must hold prompts .* got p: .* message 0 \(system\) with 'Be brief.'"):
        sample_prompts(FakeEngine(takes="ids"), load_tokenizer(tmp_path / "model"), asked, config, tmp_path / "s", no_progress)


def test_columns_with_text_that_nothing_reads_are_named_once_per_source(tmp_path):
    rows = [
        {
            **{
                "id": number,
                "prompt": f"{number}?",
                **SIDES,
                "background": "A long story.",
                "score": 3,
                "source": "a set of ours",
            },
            **{"messages": [user(f"{number}?"), assistant("yes")], "model_id": "gpt 4", "note": "" if number else "see there"},
        }
        for number in range(3)
    ]
    _, _, counts = prepare(tmp_path / "out", ("pairs", write_rows(tmp_path / "rows.jsonl", rows)))
    assert counts["columns_not_read"] == {"rows.jsonl": {"background": 3, "note": 1}}
    assert "columns of rows.jsonl not read: background (3 rows), note (1 row)" in outcome(tmp_path / "out")


def test_a_messages_own_texts_that_nothing_reads_are_named_too():
    row = parse({"prompt": [{**user("Hi"), "translation": "Guten Tag auch", "language": "English"}], **SIDES})
    assert row.unread == ("prompt[].translation",)


@pytest.mark.parametrize("choice", ["refuse", "as_rendered"])
def test_completions_that_the_template_strips_are_left_out_or_counted(tmp_path, choice):
    rows = [
        {"id": "plain", "prompt": "1?", **SIDES},
        {"id": "a", "prompt": "2?", "chosen": "<think>so</think>two", "rejected": "<think>so</think>three"},
        {"id": "alike", "prompt": "3?", "chosen": "<think>so</think>two", "rejected": "<think>or so</think>two"},
        {"id": "thought alone", "prompt": "4?", "chosen": "<think>so</think>", "rejected": "four"},
    ]
    groups, entries, counts = prepared(tmp_path, "strips", rows, changed_completions=choice)
    found = {entry["id"]: entry["outcome"] for entry in entries}
    if choice == "refuse":
        assert found == {"plain": "kept", "a": "unrenderable", "alike": "unrenderable", "thought alone": "unrenderable"}
        assert "prepare.changed_completions=as_rendered" in entries[1]["detail"] and counts["num_changed"] == 0
    else:
        assert found == {"plain": "kept", "a": "kept", "alike": "identical_pair", "thought alone": "empty"}
        assert groups[1][1] == ["two<|im_end|>", "three<|im_end|>"]
        assert counts["num_changed"] == 1 and entries[1]["changed"] == 2
        assert "1 kept of them changed" not in outcome(
            tmp_path / "out"
        ) and "1 of them changed by the chat template" in outcome(tmp_path / "out")


CONVERSATION = [user("Hi [you]?"), assistant('Say "yes"\n')]


@pytest.mark.parametrize("source", ["pairs", "thumbs", "ratings", "prompts", "arena"])
def test_conversations_held_as_json_are_read_in_every_source(source):
    text, short = json.dumps(CONVERSATION), json.dumps(CONVERSATION[1])
    record = {
        "pairs": {"chosen": text, "rejected": json.dumps([CONVERSATION[0], assistant("no")])},
        "thumbs": {"messages": f" {text} ", "label": True},
        "ratings": {"prompt": json.dumps(CONVERSATION[:1]), "completions": [short, "no"], "ratings": [2, 1]},
        "prompts": {"prompt": text},
        "arena": {"conversation_a": text, "conversation_b": text, "winner": "tie"},
    }[source]
    row = parse(record, source)
    assert row.messages == CONVERSATION[:1]
    assert source == "prompts" or row.candidates[0].text == 'Say "yes"\n'


@pytest.mark.parametrize(
    "printed",
    [
        str(CONVERSATION),
        f"[{CONVERSATION[0]}\n {CONVERSATION[1]}]",
        f"array([{CONVERSATION[0]},\n       {CONVERSATION[1]}], dtype=object)",
        str(CONVERSATION[1]),
        str([{"id": 3, "from": "human", "value": "Hi"}]),
        json.dumps(CONVERSATION)[:-9],
    ],
)
@pytest.mark.parametrize("source", ["pairs", "hh_rlhf", "implicit_pairs", "helpsteer", "ratings"])
def test_conversations_in_another_printed_form_are_refused_in_every_source(source, printed):
    record = {
        "pairs": {"prompt": "Hi", "chosen": printed, "rejected": "no"},
        "hh_rlhf": {"chosen": printed, "rejected": printed},
        "implicit_pairs": {"chosen": printed, "rejected": printed},
        "helpsteer": {"prompt": printed, "response": "a", "helpfulness": 1},
        "ratings": {"prompt": "Hi", "completions": ["no", printed], "ratings": [1, 2]},
    }[source]
    bad = parse(record, source)
    assert isinstance(bad, Bad) and bad.reason == "bad_schema" and "write it with json.dumps" in bad.detail


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2, 3]",
        "[see there] yes",
        '{"answer": 4}',
        "{'answer': 4}",
        "[{'a': 1}, {'b': 2}]",
        '[{"role": "user"}]',
        "[",
        "array([1, 2])",
    ],
)
def test_a_text_that_merely_begins_so_stays_text(text):
    row = parse({"prompt": text, "chosen": f"{text}!", "rejected": text})
    assert row.messages == [user(text)] and row.candidates[1].reply == text


@pytest.mark.parametrize(
    ("prompt", "before"),
    [
        ("Fruit?", [{"role": "system", "content": "Be terse."}, user("Fruit?")]),
        ("Fruit? ", [user("Fruit?")]),
        ("Hi", [user("Hi"), assistant("Hello"), user("Tree?")]),
        ("Bird?", [user("Hi"), assistant("Hello"), user("Bird?")]),
        ([user("Fruit?")], [{"role": "system", "content": "Be terse."}, user("Fruit?")]),
    ],
)
def test_a_prompt_beside_whole_conversations_that_say_more_is_a_part_of_them(prompt, before):
    record = {"prompt": prompt, "chosen": [*before, assistant("Fig")], "rejected": [*before, assistant("Cow")]}
    row = parse(record)
    assert row.messages == before and [one.text for one in row.candidates] == ["Fig", "Cow"]
    assert row == parse({side: record[side] for side in ("chosen", "rejected")})
    assert parse({**record, "prompt": "Another thing?"}).reason == "bad_schema"
    other = [user("Something else"), *before[1:]] if len(before) == 3 else [{"role": "system", "content": "x"}, *before[-1:]]
    assert parse({**record, "rejected": [*other, assistant("Cow")]}).reason in ("prompts_differ", "bad_schema")


@pytest.mark.parametrize(
    ("author", "role"),
    [
        *((name, "user") for name in ("user", "User", "USER", "human", "HUMAN", "prompter", " human ")),
        *((name, "assistant") for name in ("gpt", "GPT", "ChatGPT", "bot", "model", "Assistant", "bing", "bard")),
        *((name, "tool") for name in ("tool", "function", "observation", "Observation")),
        *((name, name) for name in ("narrator", "Critic", "developer", "system")),
    ],
)
def test_roles_are_known_by_all_of_their_names(author, role):
    row = parse({"prompt": [{"from": author, "value": "a"}, user("Hi")], **SIDES})
    assert row.messages[0] == {"role": role, "content": "a"}


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "messages of text, got a part of the type image_url",
        ),
        ({"role": "user", "content": None}, "role and content as text"),
        ({"from": "function_call", "value": "look there"}, "a list of objects or its JSON"),
        ({"role": "assistant", "content": "", "tool_calls": [{"function": {}}]}, "tool calls with a name"),
        ({"role": "assistant", "content": "a", "reasoning": {"a": 1}}, "whose reasoning is text"),
    ],
)
def test_what_no_message_can_hold_is_said(message, rule):
    bad = parse({"prompt": [message], **SIDES})
    assert isinstance(bad, Bad) and rule in bad.detail


TWICE = '"x": "one", "x": "two"'


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": '[{"role": "user", "content": "Hi", "x": 1, "x": 2}]', **SIDES},
        {"prompt": [user("Hi"), assistant("") | {"tool_calls": f'[{{"name": "f", {TWICE}}}]'}], **SIDES},
        {"prompt": "Hi", "tools": f'[{{"name": "f", {TWICE}}}]', **SIDES},
        {"prompt": [user("Hi"), {"role": "assistant", "function_call": {"name": "f", "arguments": f"{{{TWICE}}}"}}], **SIDES},
    ],
    ids=["messages", "calls", "tools", "arguments"],
)
def test_json_inside_a_text_that_says_a_key_twice_is_refused(record):
    bad = parse(record)
    assert isinstance(bad, Bad) and bad.reason == "bad_schema" and "must have each key once, got 'x' twice in" in bad.detail


def test_a_byte_order_mark_before_a_conversation_as_json_changes_nothing():
    assert parse({"prompt": "\ufeff" + json.dumps([user("Hi")]), **SIDES}).messages == [user("Hi")]
    bad = parse({"prompt": "\ufeff" + str([user("Hi")]), **SIDES})
    assert isinstance(bad, Bad) and "printed form of a list" in bad.detail


@pytest.mark.parametrize("content", ["", "Hello"])
def test_a_message_with_two_texts_is_refused(content):
    bad = parse({"prompt": [{"role": "user", "content": content, "value": "Hi"}], **SIDES})
    assert isinstance(bad, Bad) and "got one with different values of both" in bad.detail
    assert parse({"prompt": [{"role": "user", "content": None, "value": "Hi"}], **SIDES}).messages == [user("Hi")]
    assert parse({"prompt": [{"role": "user", "content": "Hi", "value": "Hi"}], **SIDES}).messages == [user("Hi")]


def test_a_call_keeps_all_that_it_says():
    turn = {
        "from": "function_call",
        "value": '{"name": "f", "arguments": {"a": 1}, "parameters": "more"}',
        "tool_calls": [TOOL],
    }
    row = parse({"prompt": [user("Hi"), turn, {"role": "tool", "content": "1"}], **SIDES})
    second, first = row.messages[1]["tool_calls"]
    assert first["function"]["name"] == TOOL["function"]["name"]
    assert second["function"] == {"name": "f", "parameters": "more", "arguments": {"a": 1}}
