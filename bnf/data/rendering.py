"""Chat messages become token ids here and nowhere else, so training, sampling and evaluation see the same ids.

The border between prompt and completion is exact in ids: an engine continues what `render_prompt` gives, and `Renderer` gives
what the model would have to generate after it, up to and including the token that ends its turn.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from bnf.data.chat_template import DEFAULT_DATE, ChatTemplate, RenderingError, set_date
from bnf.data.control import ControlTokens, turn_names
from bnf.data.marked import NO_CONTEXT, Context, Message, texts_of
from bnf.model_folders import open_tokenizer


def load_tokenizer(model_dir: Path, date: str = DEFAULT_DATE) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder. Its chat template takes `date` (YYYY-MM-DD) for the current day.

    Raises:
        ValueError: it has no chat template or needs code of its own, or `date` is not a day.
    """
    tokenizer = open_tokenizer(model_dir)
    if not tokenizer.chat_template:
        raise ValueError(f"model_name_or_path must have a chat template, got {model_dir} without one; use an instruct model")
    set_date(tokenizer, date)
    return tokenizer


def stop_token_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end generation: those of generation_config.json beside the tokenizer, and the tokenizer's `eos_token`."""
    declared: int | list[int] = []
    config = Path(tokenizer.name_or_path) / "generation_config.json"
    if config.is_file():
        declared = json.loads(config.read_text(encoding="utf-8")).get("eos_token_id") or []
    ids = {declared} if isinstance(declared, int) else set(declared)
    if isinstance(tokenizer.eos_token_id, int):
        ids.add(tokenizer.eos_token_id)
    return frozenset(ids)


def prompt_text(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    context: Context = NO_CONTEXT,
    *,
    own_turns: Literal["whole", "as_written"] = "whole",
    kept: Collection[str] = (),
) -> str:
    """The conversation as the template writes it, up to where the assistant's turn begins; `own_turns` as in `ChatTemplate`, `kept` as in
    `ControlTokens.hide`.

    Raises:
        RenderingError: there is no message, the last one is the assistant's, or the template refuses the messages or doesn't write all
            of them.
    """
    hidden = ControlTokens(tokenizer).hide(messages, context, kept)
    return hidden.shown(_prompt(ChatTemplate(tokenizer), hidden.messages, hidden.context, own_turns=own_turns))


def _prompt(
    template: ChatTemplate,
    messages: Sequence[Message],
    context: Context,
    *,
    header: bool = True,
    own_turns: Literal["whole", "as_written"] = "whole",
) -> str:
    if not messages or messages[-1]["role"] == "assistant":
        last = f"a last message by {messages[-1]['role']}" if messages else "none"
        raise RenderingError(
            f"messages must end before the assistant's turn, got {last}; give the assistant's text as the completion"
        )
    return template.conversation(messages, context, add_generation_prompt=header, own_turns=own_turns)


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    context: Context = NO_CONTEXT,
    *,
    own_turns: Literal["whole", "as_written"] = "whole",
    kept: Collection[str] = (),
) -> list[int]:
    """The prompt's token ids: the template's own tokenization, nothing prepended. Control tokens in the messages' texts are spelled.

    Raises:
        RenderingError: as `prompt_text`, where the ids begin with two BOS tokens, and as `ControlTokens.ids`.
    """
    control = ControlTokens(tokenizer)
    hidden = control.hide(messages, context, kept)
    text = _prompt(ChatTemplate(tokenizer), hidden.messages, hidden.context, own_turns=own_turns)
    ids = control.ids(text, hidden) if hidden.marks else _ids(tokenizer, [text])[0]
    _check_bos(tokenizer, ids)
    return ids


def whole_conversation(tokenizer: PreTrainedTokenizerBase, template: ChatTemplate, messages: Sequence[Message]) -> list[int]:
    """The token ids of a conversation with its last answer, for a model that rates it. Control tokens in its texts are spelled.

    Raises:
        RenderingError: as `ChatTemplate.conversation` and `ControlTokens.ids`.
    """
    control = ControlTokens(tokenizer)
    hidden = control.hide(messages)
    text = template.conversation(hidden.messages)
    return control.ids(text, hidden) if hidden.marks else _ids(tokenizer, [text])[0]


class Conversation(NamedTuple):
    """A prompt's messages, the assistant's replies to them (each a text, or a message where that holds more), and the context: tools and
    documents."""

    messages: Sequence[Message]
    replies: Sequence[str | Message]
    context: Context = NO_CONTEXT


@dataclass(frozen=True)
class Rendered:
    """A prompt's token ids, and for each completion its ids or why it has none. `changed` holds the numbers of completions that the
    template doesn't write whole."""

    prompt_ids: list[int]
    completions: list[list[int] | RenderingError]
    changed: set[int] = field(default_factory=set)


class Renderer:
    """Turns conversations into token ids, many at a time; each prompt is tokenized once for all of its completions.

    A completion's ids are what the model would have to generate after the prompt's ids, up to and including the token that ends its turn.
    Prompt and completion ids together are the template's own tokenization of the whole conversation up to that token. The one exception
    is a text whose first characters would merge with the prompt's last ones into one token: a model that continues the prompt can't
    generate that token, so the text is tokenized by itself. What the template writes after the end token (a line break, say) is left
    out.

    With `span="simpo"` the border and the end are those of SimPO's published training code: the assistant's header belongs to
    the completion, what the template writes after the end token stays, and an EOS is added where it isn't the last token.
    https://github.com/princeton-nlp/SimPO/blob/main/scripts/simpo_trainer.py

    A completion that the template doesn't write whole (it strips the reasoning, say) is refused; with `changed="as_rendered"` it is what
    the template writes of it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        span: Literal["turn", "simpo"] = "turn",
        changed: Literal["refuse", "as_rendered"] = "refuse",
    ) -> None:
        self._tokenizer, self._span, self._changed = tokenizer, span, changed
        self._template = ChatTemplate(tokenizer)
        self._stops = stop_token_ids(tokenizer)
        added = tokenizer.added_tokens_decoder
        names = {str(tokenizer.convert_ids_to_tokens(token)) for token in self._stops} | {*tokenizer.all_special_tokens}
        # Of all the other special tokens, those that the template writes begin and end turns.
        template = str(tokenizer.chat_template)
        names |= {token.content for token in added.values() if token.special and token.content in template}
        names |= turn_names(tokenizer)
        # The longest first: one name may begin another.
        self._control = re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)))
        # The tokenizer cuts text at these tokens first, so the text before one doesn't change the tokens after it.
        self._separators = {
            token
            for token, about in added.items()
            if about.special and not (about.normalized or about.lstrip or about.rstrip or about.single_word)
        }
        self._separator = re.compile("|".join(re.escape(added[token].content) for token in sorted(self._separators)) or r"(?!)")
        self._checked = not tokenizer.is_fast

    def control_tokens(self, text: str) -> list[str]:
        """The control tokens that occur in a text. In a conversation they would begin or end turns."""
        return sorted(set(self._control.findall(text)))

    def render(
        self, conversations: Sequence[Conversation | tuple[Sequence[Message], Sequence[str | Message]]]
    ) -> list[Rendered | RenderingError]:
        """Token ids of each conversation, or the error of its prompt.

        A completion's error says that its text holds a control token (which would end the turn early) or isn't written whole, that there
        is no exact border, or that the template doesn't end the turn with one of `stop_token_ids`.
        """
        whole_ones = [Conversation(*one) for one in conversations]
        rendered: dict[int, Rendered | RenderingError] = {}
        prompts: dict[int, str] = {}
        for index, (messages, _, context) in enumerate(whole_ones):
            try:
                prompts[index] = _prompt(self._template, messages, context, header=self._span == "turn")
            except RenderingError as error:
                rendered[index] = error
        ids_of = dict(zip(prompts, _ids(self._tokenizer, list(prompts.values())), strict=True))
        borders: dict[int, tuple[int, int]] = {}
        tails: dict[tuple[int, int], str | RenderingError] = {}
        for index, ids in ids_of.items():
            messages, replies, context = whole_ones[index]
            try:
                _check_bos(self._tokenizer, ids)
            except RenderingError as error:
                rendered[index] = error
                continue
            rendered[index] = given = Rendered(ids, [[] for _ in replies])
            position, token = borders[index] = self._last_separator(prompts[index], ids)
            for number, reply in enumerate(replies):
                try:
                    whole, is_changed = self._turn(messages, context, prompts[index], reply)
                except RenderingError as error:
                    tails[index, number] = error
                    continue
                self._check_once(whole, ids, position, token)
                tails[index, number] = whole[position:]
                if is_changed:
                    given.changed.add(number)
        texts_at = {place: tail for place, tail in tails.items() if isinstance(tail, str)}
        tail_ids = dict(zip(texts_at, _ids(self._tokenizer, list(texts_at.values())), strict=True))
        for (index, number), tail in tails.items():
            one = rendered[index]
            assert isinstance(one, Rendered)
            place = index, number
            if isinstance(tail, RenderingError):
                one.completions[number] = tail
                continue
            position, token = borders[index]
            try:
                after = prompts[index][position:]
                one.completions[number] = self._completion(one.prompt_ids[token:], after, tail, tail_ids[place])
            except RenderingError as error:
                one.completions[number] = error
        return [rendered[index] for index in range(len(conversations))]

    def _last_separator(self, prompt: str, ids: list[int]) -> tuple[int, int]:
        """Where the prompt's last separator stands, as (character, token); (0, 0) where it has none."""
        places = [match.start() for match in self._separator.finditer(prompt)] if self._tokenizer.is_fast else []
        if not places:
            return 0, 0
        return places[-1], next(index for index in range(len(ids) - 1, -1, -1) if ids[index] in self._separators)

    def _turn(self, messages: Sequence[Message], context: Context, prompt: str, reply: str | Message) -> tuple[str, bool]:
        """The whole conversation as the template writes it, and whether the reply isn't whole in it."""
        message = {"role": "assistant", "content": reply} if isinstance(reply, str) else reply
        control = sorted({name for text in texts_of([message]) for name in self.control_tokens(text)})
        if control:
            raise RenderingError(
                f"a completion's text must hold no control token, got {control}; remove it, the template writes the turn's end"
            )
        whole, lost = self._template.turn(messages, message, prompt, context, header=self._span == "turn")
        if lost is not None and self._changed == "refuse":
            raise RenderingError(f"{lost}; prepare.changed_completions=as_rendered takes what it writes") from lost
        return whole, lost is not None

    def _completion(self, prompt_ids: list[int], prompt: str, tail: str, tail_ids: list[int]) -> list[int]:
        """The completion's ids, given the prompt's and the whole conversation's from the last separator on."""
        tokenizer = self._tokenizer
        if tail_ids[: len(prompt_ids)] == prompt_ids:
            ids = tail_ids[len(prompt_ids) :]
        else:
            (ids,) = _ids(tokenizer, [tail[len(prompt) :]])
            if _decode(tokenizer, prompt_ids + ids) != _decode(tokenizer, tail_ids):
                raise RenderingError(
                    "prompt and completion must be tokenizable apart, got another text from their ids joined "
                    f"(completion {tail[len(prompt) :][:40]!r}); this tokenizer has no exact border there"
                )
        end = min((ids.index(token) for token in self._stops if token in ids), default=None)
        if end is None:
            names, found = tokenizer.convert_ids_to_tokens(sorted(self._stops)), _decode(tokenizer, ids[-4:])
            raise RenderingError(
                f"the chat template must end the assistant's turn with one of {names} (generation_config.json and tokenizer), "
                f"got {found!r}; correct eos_token_id in generation_config.json"
            )
        if self._span == "turn":
            return ids[: end + 1]
        return ids if ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]

    def _check_once(self, whole: str, prompt_ids: list[int], position: int, token: int) -> None:
        """Checks with the first conversation that this tokenizer cuts text at its separators; the borders rely on it."""
        if self._checked:
            return
        self._checked = True
        whole_ids, tail_ids = _ids(self._tokenizer, [whole, whole[position:]])
        if prompt_ids[:token] + tail_ids != whole_ids:
            raise ValueError(
                f"model_name_or_path must have a tokenizer that cuts text at special tokens, got {self._tokenizer.name_or_path}, "
                "which gives other ids for a part of a conversation than for the whole; use the model's fast tokenizer"
            )


def _check_bos(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> None:
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        raise RenderingError(
            f"the chat template must write the BOS token once, got {ids[:2]} at the start; "
            "remove `bos_token` from the template or the text"
        )


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """The ids that `apply_chat_template(tokenize=True)` makes of its text: with no special tokens but those in the text."""
    if not texts:
        return []
    encoded = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )
    return list(encoded["input_ids"])


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
