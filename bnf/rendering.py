"""Chat messages become token ids here and nowhere else, so that training, sampling and evaluation see the same ids.

The border between prompt and completion is exact by ids: what `render_prompt` gives is what an engine continues, and what
`render_completion` gives is what the model would have to generate after it, up to and with the token that ends its turn.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

Message = dict[str, str]


class RenderingError(ValueError):
    """A conversation that the chat template cannot turn into exact token ids."""


def load_tokenizer(model_dir: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder.

    Raises:
        ValueError: where it has no chat template.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    if not tokenizer.chat_template:
        raise ValueError(f"model_name_or_path must have a chat template, got {model_dir} without one; use an instruct model")
    return tokenizer


def stop_token_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end generation: those of generation_config.json beside the tokenizer, and the tokenizer's `eos_token`."""
    declared: Any = []
    config = Path(tokenizer.name_or_path) / "generation_config.json"
    if config.is_file():
        declared = json.loads(config.read_text(encoding="utf-8")).get("eos_token_id") or []
    ids = {declared} if isinstance(declared, int) else set(declared)
    if isinstance(tokenizer.eos_token_id, int):
        ids.add(tokenizer.eos_token_id)
    return frozenset(ids)


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """The conversation as the template writes it, up to where the assistant's turn begins.

    Raises:
        RenderingError: where there is no message, or the assistant has the last word already.
    """
    if not messages or messages[-1]["role"] == "assistant":
        last = f"a last message by {messages[-1]['role']}" if messages else "none"
        raise RenderingError(
            f"messages must end before the assistant's turn, got {last}; give the assistant's text as the completion"
        )
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """The prompt's token ids: the template's own tokenization, nothing prepended.

    Raises:
        RenderingError: as `prompt_text`, and where the ids begin with two BOS tokens.
    """
    ids = _ids(tokenizer, prompt_text(tokenizer, messages))
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        raise RenderingError(
            f"the chat template must write the BOS token once, got {ids[:2]} at the start; "
            "remove `bos_token` from the template or the text"
        )
    return ids


def render_completion(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], text: str) -> list[int]:
    """The token ids of `text` as the assistant's turn after `messages`, ending in the turn's terminator.

    Prompt ids and these ids together are the template's own tokenization of the whole conversation up to the terminator.
    The one exception is a text whose first characters would merge with the prompt's last ones into one token: a model that
    continues the prompt cannot generate that token, so the text is tokenized by itself. What the template writes after the
    terminator (a line break, say) is no label and is left out.

    Raises:
        RenderingError: where the text holds a control token (it would end the turn early), or the template gives no exact
            border or does not end the turn with one of `stop_token_ids`.
    """
    stops = stop_token_ids(tokenizer)
    control = (stops | set(tokenizer.all_special_ids)).intersection(_ids(tokenizer, text))
    if control:
        names = tokenizer.convert_ids_to_tokens(sorted(control))
        raise RenderingError(
            f"a completion's text must hold no control token, got {names}; remove it, the template writes the turn's end"
        )

    before = prompt_text(tokenizer, messages)
    conversation = [*messages, {"role": "assistant", "content": text}]
    whole = str(tokenizer.apply_chat_template(conversation, tokenize=False))
    if not whole.startswith(before):
        raise RenderingError(
            "the chat template must write a finished turn as its generation prompt begins it, got another beginning; "
            "use a template whose earlier messages do not change when a turn is added"
        )
    prompt_ids = render_prompt(tokenizer, messages)
    whole_ids = _ids(tokenizer, whole)
    if whole_ids[: len(prompt_ids)] == prompt_ids:
        ids = whole_ids[len(prompt_ids) :]
    else:
        ids = _ids(tokenizer, whole[len(before) :])
        if _decode(tokenizer, prompt_ids + ids) != _decode(tokenizer, whole_ids):
            raise RenderingError(
                "prompt and completion must be tokenizable apart, got another text from their ids joined "
                f"(completion {text[:40]!r}); this tokenizer has no exact border there"
            )
    for position, token in enumerate(ids):
        if token in stops:
            return ids[: position + 1]
    names, found = tokenizer.convert_ids_to_tokens(sorted(stops)), _decode(tokenizer, ids[-4:])
    raise RenderingError(
        f"the chat template must end the assistant's turn with one of {names} (generation_config.json and tokenizer), "
        f"got {found!r}; correct eos_token_id in generation_config.json"
    )


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """What `apply_chat_template(tokenize=True)` does with its text: special tokens are those that the text spells out."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
