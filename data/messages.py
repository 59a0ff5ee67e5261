"""Turns messages as data sets write them into messages as chat templates take them: roles, calls, reasoning, parts, lists held as text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from bnf.data.chat_template import REASONING_KEYS
from data.scripts import UNDIVIDED
from evaluation.records import Decoder, Record
from evaluation.types import Message

# What data sets call the roles, in small letters. Another role stays as it is: the template may know it.
_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "chatbot", "bing", "bard", "model", "ai"), "assistant"),
    "system": "system",
    "developer": "developer",
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response", "function_response"), "tool"),
}
# ShareGPT's: an assistant's message that is the JSON of a call.
_CALL_ROLES = ("function_call", "tool_call")
_KEYS = frozenset({"role", "from", "content", "value", "tool_calls", "function_call", "name", "tool_call_id", *REASONING_KEYS})
# A message, or a list of them, that Python or NumPy printed, as dictionaries or objects; or JSON that was cut.
_PRINTED = re.compile(
    r"""\s*(?:array\(\s*)?(?:[\[(]\s*)?(?:\{\s*['"]\w+['"]\s*:|\w+\(\s*(?:\w+\s*=|[\[{(]+\s*['"]\w+['"]\s*[,:]))"""
)
_ROLE_KEY, _TEXT_KEY = (
    re.compile(rf"""['"](?:{keys})['"]\s*[:,]|\b(?:{keys})=""") for keys in ("role|from", "content|value|tool_calls")
)
_OBJECT = re.compile(r"[A-Za-z]\w*\(")
_AROUND = " \t\r\n\ufeff"
# An object that has one of these keys alone is the conversation under it.
_FRAMES = ("messages", "conversations", "conversation")
# A part of a content with other keys than these holds more than a template could write.
_PART_KEYS = frozenset({"type", "text", "cache_control"})
_SHOWN = 80


def as_messages(value: object, author: str, unread: set[str] | None = None) -> list[Message]:
    """The messages of a value: a text is one message by `author`; else it is a message, or a list of them, with `role` and `content` or
    ShareGPT's `from` and `value`. The names of keys that hold text and are not read are added to `unread`.

    Raises:
        ValueError: the value is none of these, or a message's content is no text.
    """
    if isinstance(value, str):
        return [{"role": author, "content": value}]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError(f"must be text or a list of messages, got {type(value).__name__ if value != [] else 'an empty list'}")
    return [_as_message(message, unread) for message in value]


def decoded(text: str) -> object:
    """The messages that a text holds as JSON; any other text as it is.

    Raises:
        ValueError: the text holds messages as Python or NumPy print them, or JSON that was cut or has a key twice.
    """
    start = text[:40].lstrip(_AROUND) or text.lstrip(_AROUND)[:40]
    if not start.startswith(("[", "{", "(", '"')) and not _OBJECT.match(start):
        return text
    body = text.strip(_AROUND)
    try:
        value, fault = Decoder().whole(body)
    except (ValueError, RecursionError):
        if _PRINTED.match(body) and _ROLE_KEY.search(text) and _TEXT_KEY.search(text):
            raise ValueError(
                f"must hold messages as a list or as JSON, got the printed form of a list, {text[:_SHOWN]!r}; write it with json.dumps"
            ) from None
        return text
    if isinstance(value, str):  # JSON inside of JSON
        inside = decoded(value)
        return text if isinstance(inside, str) else inside
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in _FRAMES:
        (value,) = value.values()
    messages = value if isinstance(value, list) else [value]
    if not messages or not all(map(_is_message, messages)):
        return text
    if fault:
        raise ValueError(f"{fault} in {body[:_SHOWN]!r}")
    return value


def carried_texts(value: object) -> Iterator[str]:
    """The texts in a value that have several words, or several letters of a script without blanks between words."""
    if isinstance(value, str):
        if len(value.split(maxsplit=1)) > 1 or len(UNDIVIDED.findall(value)) > 1:
            yield value
    elif isinstance(value, dict):
        for inside in value.values():
            yield from carried_texts(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from carried_texts(inside)


def as_tools(value: object) -> list[Record]:
    """Tools as apply_chat_template takes them, from a list or its JSON; a bare function gets `{"type": "function", …}` around it.

    Raises:
        ValueError: the value is no list of objects.
    """
    tools = _objects(value)
    return [{"type": "function", "function": tool} if "name" in tool and "function" not in tool else tool for tool in tools]


def as_documents(value: object) -> list[Record]:
    """Documents as apply_chat_template takes them, from a list of texts or objects, or the JSON of a list of objects.

    Raises:
        ValueError: the value is neither.
    """
    if isinstance(value, list):
        value = [{"text": one} if isinstance(one, str) else one for one in value]
    return _objects(value)


def _is_message(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    openai = isinstance(value.get("role"), str) and bool({"content", "tool_calls"} & value.keys())
    return openai or (isinstance(value.get("from"), str) and "value" in value)


def _as_message(message: object, unread: set[str] | None) -> Message:
    if not isinstance(message, dict):
        raise _no_message(message)
    role, content = _only(message, "role", "from"), _only(message, "content", "value")
    if not isinstance(role, str):
        raise _no_message(message)
    name = role.strip().casefold()
    known: Message = {"role": _ROLES.get(name, role)}
    calls = _calls(message)
    if name in _CALL_ROLES:
        known["role"], calls, content = "assistant", [*map(_call, _objects(content)), *calls], ""
    if isinstance(content, list):
        content = _joined(content)
    if content is None and calls:
        content = ""  # a call alone, as OpenAI writes it
    if not isinstance(content, str):
        raise _no_message(message)
    known["content"] = content
    for key in (*REASONING_KEYS, "name", "tool_call_id"):
        if given := message.get(key):
            if not isinstance(given, str):
                raise ValueError(f"must hold messages whose {key} is text, got {str(given)[:_SHOWN]}")
            if given not in (known.get(other) for other in REASONING_KEYS):  # the same reasoning may stand under two names
                known[key] = given
    if calls:
        known["tool_calls"] = calls
    if unread is not None and len(message) > 2:
        unread.update(key for key, inside in message.items() if key not in _KEYS and any(carried_texts(inside)))
    return known


def _no_message(message: object) -> ValueError:
    return ValueError(f"must hold messages with role and content as text, got {str(message)[:_SHOWN]}")


def _only(message: Mapping[str, object], *keys: str) -> object:
    """The value under one of the keys, or None; under several it must be the same."""
    found = [message[key] for key in keys if message.get(key) is not None]
    if any(other != found[0] for other in found[1:]):
        raise ValueError(
            f"must hold messages with {' or '.join(keys)}, got one with different values of both, {str(message)[:_SHOWN]}"
        )
    return found[0] if found else None


def _calls(message: Mapping[str, object]) -> list[Record]:
    """A message's tool calls, with that of OpenAI's older `function_call`."""
    found = [*(_objects(message["tool_calls"]) if message.get("tool_calls") else ())]
    found += [message["function_call"]] if message.get("function_call") else []
    return [_call(one) for one in found]


def _call(call: object) -> Record:
    """A call as OpenAI writes it, but with its arguments as an object, which transformers' templates take."""
    frame = call if isinstance(call, dict) else {}
    function = frame.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(f"must hold tool calls with a name and arguments, got {str(call)[:_SHOWN]}")
    key = "arguments" if "arguments" in function else "parameters"
    arguments = function.get(key, {})
    if isinstance(arguments, str):
        arguments = _from_json(arguments, "must hold tool calls whose arguments are JSON")
    if "function" not in frame:
        frame = {"type": "function"}
    rest = {name: value for name, value in function.items() if name != key}
    return {**frame, "function": {**rest, "arguments": arguments}}


def _joined(parts: list[object]) -> str:
    """The texts of a content in parts, joined by line breaks, as servers do for templates that take text."""
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    kinds = [part.get("type", "text") if isinstance(part, dict) else "text" for part in parts]
    for kind, text in zip(kinds, texts, strict=True):
        if kind not in ("text", "input_text", "output_text") or not isinstance(text, str):
            raise ValueError(f"must hold messages of text, got a part of the type {kind}; leave out what isn't text")
    others = [key for part in parts if isinstance(part, dict) for key, value in part.items() if value and key not in _PART_KEYS]
    if others:
        raise ValueError(
            f"must hold messages of text, got a part that has its {others[0]} beside the text; leave out what isn't text"
        )
    return "\n".join(str(text) for text in texts)


def _objects(value: object) -> list[Record]:
    if isinstance(value, str):
        value = _from_json(value, "must be a list of objects or its JSON")
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"must be a list of objects or its JSON, got {str(value)[:_SHOWN]}")
    return value


def _from_json(text: str, rule: str) -> object:
    """The value that a text holds as JSON.

    Raises:
        ValueError: where it holds none, or one that would lose a part of the text; `rule` says what it must be.
    """
    try:
        value, fault = Decoder().whole(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{rule}, got {text[:_SHOWN]!r}") from error
    if fault:
        raise ValueError(f"{fault} in {text[:_SHOWN]!r}")
    return value
