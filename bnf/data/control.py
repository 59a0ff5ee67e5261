"""Control tokens in the texts of a conversation.

A tokenizer reads their names as the tokens wherever they stand: a text with `<|im_end|>` in it would end its turn and begin another's. What
people, data and models wrote stays text here: it is spelled in ordinary tokens.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from bnf.data.chat_template import ChatTemplate, RenderingError
from bnf.data.marked import KNOWN_ROLES, NO_CONTEXT, Context, Message

# The wheel names no tokenizers of its own: transformers brings them.
if TYPE_CHECKING:
    from tokenizers import Tokenizer


class SpellingError(RenderingError):
    """A text holds a control token that this tokenizer can't spell."""


class Hidden(NamedTuple):
    """A conversation with a mark in the place of every control token; `marks` are empty where no text holds one."""

    messages: Sequence[Message]
    context: Context
    marks: Mapping[str, str]

    def shown(self, rendering: str) -> str:
        """What the template wrote, with the control tokens' names in their places."""
        for mark, name in self.marks.items():
            rendering = rendering.replace(mark, name)
        return rendering


def control_names(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts that the tokenizer reads as special tokens or that begin and end turns, the longest first, as one may begin another.

    transformers' `all_special_tokens` are those that have a role. Llama 3's `<|start_header_id|>` and Mistral's `[INST]` have none.
    """
    added = tokenizer.added_tokens_decoder.values()
    names = {*map(str, tokenizer.all_special_tokens), *(token.content for token in added if token.special)}
    return sorted((names | turn_names(tokenizer)) - {""}, key=lambda name: (-len(name), name))


def turn_names(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The added tokens that aren't called special, and that the chat template writes around turns all the same, as DeepSeek's
    `<｜User｜>` and `<｜Assistant｜>`.
    """
    plain = {token.content for token in tokenizer.added_tokens_decoder.values() if not token.special}
    if not plain:
        return set()
    turns: list[Message] = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    for messages in (turns, turns[:1]):
        try:
            written = ChatTemplate(tokenizer).conversation(messages)
        except RenderingError:
            # It takes no such conversation.
            continue
        return {name for name in plain if name in written}
    return set()


def without_control_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[Message]:
    """Messages of text with a blank in each control token: for readers of a rendered text, who would take it for the token."""
    names = control_names(tokenizer)
    found: list[Message] = []
    for message in messages:
        content = message["content"]
        for name in names:
            content = content.replace(name, f"{name[0]} {name[1:]}")
        found.append({**message, "content": content})
    return found


class ControlTokens:
    """Finds control tokens in a conversation's texts, and makes token ids of a rendering in which these texts stay text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._control = frozenset(control_names(tokenizer))
        self._names = re.compile("|".join(map(re.escape, sorted(self._control, key=len, reverse=True))) or r"(?!)")

    def hide(self, messages: Sequence[Message], context: Context = NO_CONTEXT, kept: Collection[str] = ()) -> Hidden:
        """The conversation as a template is to write it.

        Args:
            kept: Names that stay tokens in the assistant's messages: the markers of its own thoughts, which some vocabularies have.
        """
        if not any(map(self._names.search, _texts([messages, context]))):
            return Hidden(messages, context, {})
        prefix = "bNfCoNtRoL"
        while any(prefix in text for text in _texts([messages, context])):
            prefix += "x"
        numbers: dict[str, int] = {}

        def mark(name: str) -> str:
            return f"{prefix}{numbers.setdefault(name, len(numbers)):03d}EnD"

        def inside(value: object, kept: Collection[str]) -> object:
            if isinstance(value, str):
                return self._names.sub(lambda found: found[0] if found[0] in kept else mark(found[0]), value)
            if isinstance(value, list | tuple):
                return [inside(one, kept) for one in value]
            if isinstance(value, Mapping):
                return {inside(key, kept): inside(one, kept) for key, one in value.items()}
            return value

        hidden: list[Message] = []
        for message in messages:
            role = message["role"]
            rest = {key: inside(value, kept if role == "assistant" else ()) for key, value in message.items() if key != "role"}
            hidden.append({"role": role if role in KNOWN_ROLES else inside(role, ()), **rest})
        around = {name: inside(value, ()) for name, value in context.items()}
        return Hidden(hidden, around, {mark(name): name for name in list(numbers)})

    def ids(self, rendering: str, hidden: Hidden) -> list[int]:
        """The token ids of what the template wrote of a hidden conversation: the template's control tokens are tokens, and the texts' are
        spelled.

        Raises:
            SpellingError: the tokenizer can't spell them, or doesn't cut text at its special tokens.
        """
        mark = re.compile("|".join(map(re.escape, hidden.marks)) or r"(?!)")
        pieces = list(self._pieces(rendering, mark))
        # With a word in the marks' places nothing is to be spelled: the pieces are then those of the whole.
        plain = [mark.sub("x", text) for text, _ in pieces]
        if (
            not self._tokenizer.is_fast
            or [one for ids in self._encoded(plain) for one in ids] != self._encoded(["".join(plain)])[0]
        ):
            raise self._unspelled(hidden)
        spelled = iter(self._spelled([hidden.shown(text) for text, holds in pieces if holds]))
        read = iter(self._encoded([text for text, holds in pieces if not holds]))
        found: list[int] = []
        unspelled = self._control_ids()
        for _, holds in pieces:
            ids = next(spelled if holds else read)
            if holds and not unspelled.isdisjoint(ids):
                raise self._unspelled(hidden)
            found += ids
        return found

    def _pieces(self, rendering: str, mark: re.Pattern[str]) -> Iterator[tuple[str, bool]]:
        """The rendering in pieces, and whether each holds a mark: such a piece lies between two control tokens of the template's."""
        start = end = 0
        for found in [*self._names.finditer(rendering), None]:
            stop = len(rendering) if found is None else found.start()
            if mark.search(rendering, end, stop):
                if start < end:
                    yield rendering[start:end], False
                yield rendering[end:stop], True
                start = stop
            end = stop if found is None else found.end()
        if start < len(rendering):
            yield rendering[start:], False

    def _encoded(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self._tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )
        return list(encoded["input_ids"])

    def _spelled(self, texts: list[str]) -> list[list[int]]:
        speller = _spellers.get(self._tokenizer)
        if speller is None or speller.names != self._control:
            speller = _spellers[self._tokenizer] = _Speller(self._tokenizer.backend_tokenizer, self._control)
        return speller(texts)

    def _control_ids(self) -> set[int]:
        """The ids that no spelled text has. A text may hold signs that the tokenizer doesn't know."""
        added = {token for token, about in self._tokenizer.added_tokens_decoder.items() if about.content in self._control}
        return (added | set(self._tokenizer.all_special_ids)) - {self._tokenizer.unk_token_id}

    def _unspelled(self, hidden: Hidden) -> SpellingError:
        return SpellingError(
            "a prompt's text must hold no control token where the tokenizer can't spell it, got "
            f"{sorted(hidden.marks.values())}; remove it from the text"
        )


class _Speller:
    """A tokenizer without some of its added tokens. transformers' `split_special_tokens` leaves in those that aren't called special."""

    def __init__(self, backend: "Tokenizer", names: frozenset[str]) -> None:
        self.names = names
        settings = json.loads(backend.to_str())
        settings["added_tokens"] = left = [token for token in settings["added_tokens"] if token["content"] not in names]
        self._backend = type(backend).from_str(json.dumps(settings))
        self._backend.no_truncation()
        self._backend.no_padding()
        # Those that are left may have got other ids.
        self._ids = {self._backend.token_to_id(token["content"]): token["id"] for token in left}

    def __call__(self, texts: list[str]) -> list[list[int]]:
        encoded = self._backend.encode_batch(texts, add_special_tokens=False)
        return [[self._ids.get(token, token) for token in one.ids] for one in encoded]


# Each tokenizer's: reading a vocabulary takes up to a second.
_spellers: WeakKeyDictionary[PreTrainedTokenizerBase, _Speller] = WeakKeyDictionary()


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _texts(key)
            yield from _texts(one)
