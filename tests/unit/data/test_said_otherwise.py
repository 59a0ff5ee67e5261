"""What a row says in a place or form that nobody expects is read, named or refused."""

import json

import pytest

from data.parse import Parser
from data.reading.records import Bad, DataSource, Raw

ASK = {"role": "user", "content": "Ask this"}
SIDES = {"chosen": "yes indeed", "rejected": "no never"}


def parsed(**row):
    return Parser(DataSource("pairs", "x"))(Raw("", 1, {"prompt": "Ask this", **SIDES, **row}))[1]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(json.dumps([ASK])),
        json.dumps({"messages": [ASK]}),
        json.dumps({"conversations": [{"from": "human", "value": "Ask this"}]}),
    ],
)
def test_a_conversation_inside_of_more_json_is_decoded(text):
    assert parsed(prompt=text).messages == [ASK]


@pytest.mark.parametrize(
    "text",
    [
        "({'content': 'Ask this', 'role': 'user'},)",
        "[OrderedDict([('role', 'user'), ('content', 'Ask this')])]",
        "OrderedDict({'role': 'user', 'content': 'Ask this'})",
        "[Message(role='user', content='Ask this')]",
        "Message(content='Ask this', role='user')",
        "array([{'role': 'user', 'content': 'Ask this'}], dtype=object)",
    ],
)
def test_a_conversation_that_python_printed_is_refused(text):
    row = parsed(prompt=text)
    assert isinstance(row, Bad) and "the printed form" in row.detail


@pytest.mark.parametrize(
    "text",
    ['"Ask" is a word', '"Ask"', "f(x) = {x: role}", "sum([1, 2])", "(Ask) this", '{"messages": []}', '{"messages": "none"}'],
)
def test_a_text_that_only_begins_so_stays_one(text):
    assert parsed(prompt=text).messages == [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"role": "user", "content": "Ask this", "value": "Or that"}, "different values of both"),
        ({"role": "user", "from": "gpt", "content": "Ask this"}, "different values of both"),
        ({"role": "user", "content": [{"text": "Ask", "image": "a.png"}]}, "its image beside the text"),
        ({"role": "user", "content": [{"type": "text", "text": "Ask", "note": "Or that"}]}, "its note beside the text"),
    ],
)
def test_a_message_that_says_more_than_is_read_is_refused(message, why):
    row = parsed(prompt=[message])
    assert isinstance(row, Bad) and why in row.detail


def test_what_is_empty_or_said_twice_is_no_more():
    content = [{"type": "text", "text": "Ask this", "image_url": None, "cache_control": {"type": "ephemeral"}}]
    assert parsed(prompt=[{"role": "user", "content": content, "value": None}]).messages == [ASK]
    assert parsed(prompt=[{**ASK, "from": "user", "value": "Ask this"}]).messages == [ASK]


def test_a_message_that_is_a_call_keeps_its_other_calls():
    message = {"from": "function_call", "value": '{"name": "f"}', "tool_calls": [{"name": "g"}]}
    found = parsed(prompt=[ASK, message, {"role": "tool", "content": "4"}]).messages[1]["tool_calls"]
    assert [call["function"]["name"] for call in found] == ["f", "g"]


@pytest.mark.parametrize(
    ("name", "value", "is_named"),
    [
        ("背景", "很长的一个故事没有空格", True),
        ("context", "สมชายมีแอปเปิ้ลห้าผล", True),
        ("task", "Translate it into German", True),
        ("additional_info", "Of bees in winter", True),
        ("images", ["a.png"], True),
        ("image", {"bytes": b"\x89PNG", "path": None}, True),
        ("image", None, False),
        ("images", [], False),
        ("created_at", "2026-11-28 10:00", False),
        ("model", "GPT 4", False),
    ],
)
def test_columns_that_hold_what_nothing_reads_are_named(name, value, is_named):
    assert parsed(**{name: value}).unread == ((name,) if is_named else ())
