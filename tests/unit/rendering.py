"""A single completion's token ids, for tests of what is made of many."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from bnf.data.marked import Message
from bnf.data.rendering import Rendered, Renderer, RenderingError


def render_completion(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], reply: str | Message) -> list[int]:
    """The token ids of `reply` as the assistant's turn after `messages`, as `Renderer` gives them.

    Raises:
        RenderingError: as `Renderer.render` gives it.
    """
    (rendered,) = Renderer(tokenizer).render([(messages, [reply])])
    ids = rendered.completions[0] if isinstance(rendered, Rendered) else rendered
    if isinstance(ids, RenderingError):
        raise ids
    return ids
