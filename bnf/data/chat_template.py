"""What a model's chat template writes of a conversation, and that it writes all of it.

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

# The day that Llama 3's templates name where they aren't told one.
DEFAULT_DATE = "2024-07-26"
_DAY = "%Y-%m-%d"
# Templates have no common name for it.
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")

_ROLE_MARK = "bNfRoLe"
_MOST_PATTERNS = 1024
# What may stand or not between a text and the template's words around it: a number is written without quotes. At most so much of it.
_LOOSE = " \t\r\n\"'"
_MOST_LOOSE = 64
# How Python's own words for JSON's are written where a template prints a value.
_PYTHON = {"true": "True", "false": "False", "null": "None"}
# What a template's own code may raise on data that it doesn't expect.
_TEMPLATE_FAULTS = (TypeError, ValueError, LookupError, AttributeError)


class RenderingError(ValueError):
    """A conversation that the chat template cannot turn into exact token ids."""


class LostText(RenderingError):
    """A conversation of which the chat template leaves out or changes a text; `message` is the number of its message."""

    def __init__(self, explanation: str, message: int | None = None) -> None:
        super().__init__(explanation)
        self.message = message


def set_date(tokenizer: PreTrainedTokenizerBase, date: str) -> None:
    """Tells the tokenizer's template what day it is (YYYY-MM-DD), whenever it is asked.

    Raises:
        ValueError: where that is no day.
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

    `literals` is None where it is known only which texts are written, and in which order.
    """

    order: list[int]
    literals: list[str] | None
    refused: str = ""

    def first_lost(
        self, texts: Sequence[str], rendering: str, expected: Iterable[int], free: Collection[int] = ()
    ) -> int | None:
        """The number of the first of the `expected` texts that isn't in the rendering whole and at its place, or None. Those that are
        `free` must be written, and may be changed."""
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
        """Where the text at a place of the order, in this form, ends from the position on; None where it doesn't stand there.

        The template's own word must stand before or after it: a text may be a word that the template writes anyway, such as `user`.
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
    """Writes conversations by a tokenizer's chat template and checks what it wrote; shapes that were seen are remembered."""

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
            RenderingError: where the template refuses it.
            LostText: where it leaves out or changes a text, or writes another role for a message's.
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
        """The conversation with the assistant's `reply` after the `prompt`, which `conversation` gave for the messages; and what of
        the reply isn't in it whole.

        Args:
            header: Whether the prompt ends with the header of the assistant's turn.

        Raises:
            RenderingError: where the template refuses it, or writes the prompt in another way before the reply.
        """
        whole = self._written([*messages, reply], context, {"add_generation_prompt": False})
        if not whole.startswith(prompt):
            raise RenderingError(
                "the chat template must write a finished turn as its generation prompt begins it, got another beginning; "
                "use a template whose earlier messages do not change when a turn is added"
            )
        before, own = shape_of(messages, context), shape_of([reply], NO_CONTEXT)
        first, texts = len(before.texts), before.texts + own.texts
        key = (before.key, own.key, header)
        pattern = self._patterns.get(key)
        if pattern is None:
            pattern = self._remember(key, self._turn_pattern(messages, reply, context, header, first))
        lost = pattern.first_lost(texts, whole[len(prompt) :], range(first, len(texts)))
        return whole, None if lost is None else _lost(Marked(messages, context, reply), lost)

    def _remember(self, key: Hashable, pattern: _Pattern) -> _Pattern:
        # Calls have ids, and each of them makes a shape of its own.
        if len(self._patterns) >= _MOST_PATTERNS:
            self._patterns.clear()
        self._patterns[key] = pattern
        return pattern

    def _pattern(self, messages: Sequence[Message], context: Context, options: Mapping[str, bool]) -> _Pattern:
        marked = Marked(messages, context)
        rendering = self._written(marked.messages, marked.context, options)
        literals, order = split(rendering)
        # Of a message that isn't written the text is what is lost, and one without a text loses nothing.
        for number in sorted({place for text in order if (place := marked.places[text].message) is not None}):
            if refused := self._role_fault(marked, number, str(messages[number]["role"]), rendering, options):
                return _Pattern(order, literals, refused)
        return _Pattern(order, literals)

    def _role_fault(self, marked: Marked, number: int, role: str, rendering: str, options: Mapping[str, bool]) -> str:
        """What is wrong with what the template makes of a role; it may take one that it doesn't know for another."""
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
        """The message with `developer` as system where the template has no such role, and reasoning under the name that it reads."""
        if message["role"] == "developer" and not self._names("developer"):
            message = {**message, "role": "system"}
        for key in REASONING_KEYS:
            if key in message and not self._names(key):
                known = next((other for other in REASONING_KEYS if other not in message and self._names(other)), key)
                message = {known if name == key else name: value for name, value in message.items()}
        return message

    def _names(self, word: str) -> bool:
        """Whether the template's source has the word as a name or a text of its own."""
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
    """The text as a template may write it: without white space at its ends, as JSON, or as JSON inside of JSON."""
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
