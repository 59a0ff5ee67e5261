"""Conversations as a model's chat template writes them, and the check that it writes all of them.

A template is a program of the model's makers. It may not know a role, a message's reasoning or its tool calls, may rewrite a text, and
may ask what day it is. So each rendering is checked. The template also writes a conversation of the same shape with a mark in the place
of every text: the marks show where it writes which text. With the texts in their places, this must be the rendering. Where a template
does more with a text than trim or escape it, each text must still stand whole in the rendering, in the order of the marks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from bnf.data.marked import KNOWN_ROLES, NO_CONTEXT, Context, Marked, Message, shape_of, split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The day that Llama 3's templates name by default.
DEFAULT_DATE = "2024-07-26"
_DAY = "%Y-%m-%d"
# Templates have no common name for it.
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")

_ROLE_MARK = "bNfRoLe"
_MOST_PATTERNS = 1024
# Characters that may stand between a text and the template's words around it (a number is written without quotes), and how many.
_LOOSE = " \t\r\n\"'"
_MOST_LOOSE = 64
# How a template that prints a value writes JSON's words: as Python's.
_PYTHON = {"true": "True", "false": "False", "null": "None"}
# Words that end with a closing tag, as models' thoughts do: what they began is over.
_CLOSED = re.compile(r"(</[^<>]+>|\[/[^\[\]]+\]|<\|END_[^<>]+\|>)\s*$")
# What a template's code may raise for data that it doesn't expect.
_TEMPLATE_FAULTS = (TypeError, ValueError, LookupError, AttributeError)


class RenderingError(ValueError):
    """A conversation that the chat template cannot turn into exact token ids."""


class LostText(RenderingError):
    """A conversation of which the chat template leaves out or changes a text; `message` is the number of its message."""

    def __init__(self, explanation: str, message: int | None = None) -> None:
        super().__init__(explanation)
        self.message = message


def set_date(tokenizer: PreTrainedTokenizerBase, date: str) -> None:
    """Sets the day (YYYY-MM-DD) that the tokenizer's template takes for the current one.

    Raises:
        ValueError: `date` is not a day.
    """
    if not is_day(date):
        raise ValueError(f"date must be a day as YYYY-MM-DD, got {date!r}; write date={DEFAULT_DATE}")
    tokenizer.template_day = datetime.strptime(date, _DAY)


def is_day(text: str) -> bool:
    """Whether a text is a day as YYYY-MM-DD."""
    try:
        return datetime.strptime(text, _DAY).strftime(_DAY) == text
    except ValueError:
        return False


@dataclass(frozen=True)
class _Pattern:
    """What the template writes around the texts: `order[i]` is the number of the text between the literals i and i + 1.

    `literals` is None where only the texts' order is known. `refused` says what is wrong with the conversation's roles.
    """

    order: list[int]
    literals: list[str] | None
    refused: str = ""

    def first_lost(
        self, texts: Sequence[str], rendering: str, expected: Iterable[int], free: Collection[int] = ()
    ) -> int | None:
        """The number of the first `expected` text that isn't whole and at its place in the rendering, or None. Texts in `free` must be
        written, but may be changed."""
        written = set(self.order)
        absent = next((number for number in expected if number not in written), None)
        if absent is not None:
            return absent
        if self.literals is not None and (
            rendering == self._filled(texts) or rendering == self._filled([text.strip() for text in texts])
        ):
            return None
        position = 0
        for place, number in enumerate(self.order):
            ends = [end for form in _forms(texts[number]) if (end := self._end(form, place, rendering, position)) is not None]
            if ends:
                position = min(ends)
            elif number not in free:
                return number
        return None

    def _end(self, form: str, place: int, rendering: str, position: int) -> int | None:
        """Where a text, in this form, ends in the rendering, searched from the position on; None where it isn't found.

        The template's word before or after it must be there too: the text may be a word that the template writes anyway, such as `user`.
        """
        around = ["", ""] if self.literals is None else self.literals[place : place + 2]
        before, after = (around[0].rstrip(_LOOSE).split() or [""])[-1], (around[1].lstrip(_LOOSE).split() or [""])[0]
        found = rendering.find(form, position)
        while found >= 0:
            end = found + len(form)
            follows = before and rendering[max(0, found - len(before) - _MOST_LOOSE) : found].rstrip(_LOOSE).endswith(before)
            if follows or (after and rendering[end : end + len(after) + _MOST_LOOSE].lstrip(_LOOSE).startswith(after)):
                return end
            if not before and not after:
                return end
            found = rendering.find(form, found + 1)
        return None

    def _filled(self, texts: Sequence[str]) -> str:
        assert self.literals is not None
        pieces = [self.literals[0]]
        for number, literal in zip(self.order, self.literals[1:], strict=True):
            pieces += (texts[number], literal)
        return "".join(pieces)


class ChatTemplate:
    """Writes conversations with a tokenizer's chat template and checks the rendering. It remembers the shapes that it has seen."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        day = getattr(tokenizer, "template_day", None) or datetime.strptime(DEFAULT_DATE, _DAY)
        # Variables come before the function of the same name, which would ask the clock.
        self._variables = {"strftime_now": day.strftime, "date_string": day.strftime("%d %b %Y")}
        self._patterns: dict[Hashable, _Pattern] = {}

    def conversation(
        self,
        messages: Sequence[Message],
        context: Context = NO_CONTEXT,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        own_turns: Literal["whole", "as_written"] = "whole",
    ) -> str:
        """The conversation as the template writes it; the options are apply_chat_template's. With `own_turns="as_written"` it may
        change texts of the assistant, as templates do that leave the reasoning of earlier turns out.

        Raises:
            RenderingError: the template refuses the conversation.
            LostText: it leaves out or changes a text, or writes a message under another role.
        """
        options = {"add_generation_prompt": add_generation_prompt, "continue_final_message": continue_final_message}
        rendering = self._written(messages, context, options)
        shape = shape_of(messages, context)
        key = (shape.key, add_generation_prompt, continue_final_message)
        pattern = self._patterns.get(key)
        if pattern is None:
            pattern = self._remember(key, self._pattern(messages, context, options))
        if pattern.refused:
            raise LostText(pattern.refused)
        expected = range(len(shape.texts))
        lost = pattern.first_lost(shape.texts, rendering, expected)
        if lost is not None and own_turns == "as_written":
            places = Marked(messages, context).places
            free = [number for number in expected if places[number].role == "assistant"]
            lost = pattern.first_lost(shape.texts, rendering, expected, free)
        if lost is not None:
            raise _lost(Marked(messages, context), lost)
        return rendering

    def turn(
        self, messages: Sequence[Message], reply: Message, prompt: str, context: Context = NO_CONTEXT, *, header: bool = True
    ) -> tuple[str, LostText | None]:
        """The conversation with the assistant's `reply` after the `prompt`, which `conversation` gave for the messages; and the error of a
        reply's text that isn't whole in it.

        A template may begin the thought in the prompt and leave thoughts out of a finished turn, as DeepSeek-R1's does. A reply that begins
        with the same words is then written as the model generates it: after the prompt, thought and all.

        Args:
            header: Whether the prompt ends with the header of the assistant's turn.

        Raises:
            RenderingError: the template refuses it, or writes the prompt otherwise when a reply follows.
        """
        whole = self._written([*messages, reply], context, {"add_generation_prompt": False})
        if not whole.startswith(prompt):
            return self._as_generated(messages, reply, prompt, context), None
        before, own = shape_of(messages, context), shape_of([reply], NO_CONTEXT)
        first, texts = len(before.texts), before.texts + own.texts
        key = (before.key, own.key, header)
        pattern = self._patterns.get(key)
        if pattern is None:
            pattern = self._remember(key, self._turn_pattern(messages, reply, context, header, first))
        lost = pattern.first_lost(texts, whole[len(prompt) :], range(first, len(texts)))
        return whole, None if lost is None else _lost(Marked(messages, context, reply), lost)

    def _as_generated(self, messages: Sequence[Message], reply: Message, prompt: str, context: Context) -> str:
        """The conversation with a reply as the model generates it, where the template begins the assistant's turn in a prompt with words
        that it leaves out of a finished turn: `<think>`, or `<think></think>` where thinking is switched off.

        Raises:
            RenderingError: there are no such words, or they begin a thought and the reply doesn't.
        """
        marked = Marked(messages, context, reply)
        literals, order = split(self._written(marked.messages, marked.context, {"add_generation_prompt": False}))
        asked = split(self._written(marked.messages[:-1], marked.context, {"add_generation_prompt": True}))
        header, end, text = literals[-2], literals[-1], reply.get("content")
        is_one_text = isinstance(text, str) and len(shape_of([reply], NO_CONTEXT).texts) == 1
        is_one_text = is_one_text and order == [*asked[1], len(order) - 1] and literals[:-2] == asked[0][:-1]
        words = asked[0][-1].removeprefix(header)
        if not is_one_text or not asked[0][-1].startswith(header) or not words.strip():
            raise RenderingError(
                "the chat template must write a finished turn as its generation prompt begins it, got another beginning; "
                "use a template whose earlier messages do not change when a turn is added"
            )
        assert isinstance(text, str)
        said = text.strip()
        if _CLOSED.search(words):
            return prompt + said + end
        if not said.startswith(words.strip()):
            raise RenderingError(
                f"a completion must begin with {words.strip()!r}, as the chat template begins the assistant's turn, got {said[:40]!r}; "
                "write the thought before the answer, or use a template that doesn't begin it"
            )
        return prompt + said.removeprefix(words.strip()).lstrip() + end

    def _remember(self, key: Hashable, pattern: _Pattern) -> _Pattern:
        # Calls have ids, so there may be as many shapes as conversations.
        if len(self._patterns) >= _MOST_PATTERNS:
            self._patterns.clear()
        self._patterns[key] = pattern
        return pattern

    def _pattern(self, messages: Sequence[Message], context: Context, options: Mapping[str, bool]) -> _Pattern:
        marked = Marked(messages, context)
        rendering = self._written(marked.messages, marked.context, options)
        literals, order = split(rendering)
        # Only messages with a written text: an unwritten text is found as lost, and a message without text loses nothing.
        for number in sorted({place for text in order if (place := marked.places[text].message) is not None}):
            if refused := self._role_fault(marked, number, str(messages[number]["role"]), rendering, options):
                return _Pattern(order, literals, refused)
        return _Pattern(order, literals)

    def _role_fault(self, marked: Marked, number: int, role: str, rendering: str, options: Mapping[str, bool]) -> str:
        """What is wrong with a message's role in the rendering: a template may take a role that it doesn't know for another."""
        if role in ("user", "assistant"):
            return ""

        def with_role(other: str) -> str:
            messages = [{**one, "role": other} if place == number else one for place, one in enumerate(marked.messages)]
            try:
                return self._written(messages, marked.context, options)
            except RenderingError:
                return ""

        rule = f"messages must have roles that the chat template knows, got message {number} with the role {role!r}, which it"
        if role not in KNOWN_ROLES and not self._names(role) and _ROLE_MARK not in with_role(_ROLE_MARK):
            return f"{rule} doesn't write; give its role as one of {', '.join(sorted(KNOWN_ROLES))}"
        if with_role("assistant") == rendering:
            return f"{rule} writes as the assistant's; put its text into the user's message, or leave the row out"
        return ""

    def _turn_pattern(
        self, messages: Sequence[Message], reply: Message, context: Context, header: bool, first: int
    ) -> _Pattern:
        marked = Marked(messages, context, reply)
        before = marked.messages[:-1]
        prompt = self._written(before, marked.context, {"add_generation_prompt": header})
        whole = self._written(marked.messages, marked.context, {"add_generation_prompt": False})
        if whole.startswith(prompt):
            literals, order = split(whole[len(prompt) :])
            return _Pattern(order, literals)
        return _Pattern([number for number in split(whole)[1] if number >= first], None)

    def _written(self, messages: Sequence[Message], context: Context, options: Mapping[str, bool]) -> str:
        from jinja2 import TemplateError

        shown = [self._as_known(message) for message in messages]
        try:
            try:
                return self._applied(shown, context, options)
            except TypeError:
                # A call's arguments are an object by transformers' convention; some templates expect OpenAI's text of one.
                as_text = [_with_arguments_as_text(message) for message in shown]
                if as_text == shown:
                    raise
                return self._applied(as_text, context, options)
        except (TemplateError, *_TEMPLATE_FAULTS) as error:
            roles = [message["role"] for message in messages]
            raise RenderingError(
                f"messages must be what the chat template takes, got roles {roles}, which it refuses: {error}; leave the row out"
            ) from error

    def _applied(self, messages: list[Message], context: Context, options: Mapping[str, bool]) -> str:
        return str(
            self._tokenizer.apply_chat_template(messages, tokenize=False, **context, **options, **self._variables)  # type: ignore[arg-type]
        )

    def _as_known(self, message: Message) -> Message:
        """The message in the template's terms: `developer` becomes system where it has no such role, and reasoning gets the key that it
        reads."""
        if message["role"] == "developer" and not self._names("developer"):
            message = {**message, "role": "system"}
        for key in REASONING_KEYS:
            if key in message and not self._names(key):
                known = next((other for other in REASONING_KEYS if other not in message and self._names(other)), key)
                message = {known if name == key else name: value for name, value in message.items()}
        return message

    def _names(self, word: str) -> bool:
        """Whether the template's source has the word as a name or in quotes."""
        return re.search(rf"[.'\"]{re.escape(word)}\b", str(self._tokenizer.chat_template)) is not None


def _with_arguments_as_text(message: Message) -> Message:
    if "tool_calls" not in message:
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call.get("function", {})
        if isinstance(function.get("arguments"), dict):
            call = {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
        calls.append(call)
    return {**message, "tool_calls": calls}


def _forms(text: str) -> set[str]:
    """The forms in which a template may write a text: without white space at its ends, as JSON, or as JSON inside JSON."""
    forms = {text.strip(), _PYTHON.get(text, text.strip())}
    for part in {text, text.strip()}:
        for ascii in (False, True):
            escaped = json.dumps(part, ensure_ascii=ascii)[1:-1]
            forms |= {escaped, json.dumps(escaped, ensure_ascii=ascii)[1:-1]}
    return forms


def _lost(marked: Marked, number: int) -> LostText:
    words = marked.texts[number].strip()
    shown = f"{words[:60]}…" if len(words) > 60 else words
    return LostText(
        f"the chat template must write every text of a conversation, got {marked.places[number]} with {shown!r}, which it leaves out "
        "or changes; give it in a form that the template writes, or leave the row out",
        marked.places[number].message,
    )
