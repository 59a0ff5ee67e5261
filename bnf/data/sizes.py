"""How many tokens a data set has and how its groups are built, from the stored lengths alone, without torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from bnf.data.groups import GROUPS_FILE

Lengths = NDArray[np.int64]


@dataclass(frozen=True)
class DataSizes:
    """Sums over a data set.

    Attributes:
        groups: prompt groups.
        tokens: tokens of all rows: without shared prompts each completion has a copy of its prompt.
        completion_tokens: tokens of completions, whose logits are computed.
        attended: pairs of a token and a token that it sees.
        prompt, completions: a mean group: the tokens of its prompt, and of each completion.
        longest: tokens of the longest group, which a row has to hold.
    """

    groups: int
    tokens: int
    completion_tokens: int
    attended: float
    prompt: int
    completions: tuple[int, ...]
    longest: int


def data_sizes(folder: Path, *, share_prompts: bool) -> DataSizes:
    """The sizes of the groups in a folder.

    Raises:
        FileNotFoundError: it holds no groups.
    """
    if not (folder / GROUPS_FILE).is_file():
        raise FileNotFoundError(f"groups must be in {folder / GROUPS_FILE}, got no such file; prepare the data first")
    with safe_open(folder / GROUPS_FILE, framework="numpy") as file:
        prompts, completions, offsets = (
            file.get_tensor(name).astype(np.int64) for name in ("prompt_lengths", "completion_lengths", "completion_offsets")
        )
    return _summed(prompts, completions, np.diff(offsets), share_prompts)


def assumed_sizes(groups: int, group_tokens: int, *, prompt_share: float, num_completions: int) -> DataSizes:
    """Of data that aren't there: groups of equal lengths with shared prompts, of whose tokens `prompt_share` are the prompt's."""
    prompt = max(1, round(group_tokens * prompt_share))
    completion = max(1, (group_tokens - prompt) // num_completions)
    one = _summed(np.array([prompt]), np.array([completion] * num_completions), np.array([num_completions]), True)
    return DataSizes(
        groups=groups,
        tokens=one.tokens * groups,
        completion_tokens=one.completion_tokens * groups,
        attended=one.attended * groups,
        prompt=one.prompt,
        completions=one.completions,
        longest=one.longest,
    )


def _summed(prompts: Lengths, completions: Lengths, counts: Lengths, share_prompts: bool) -> DataSizes:
    copies = np.ones_like(counts) if share_prompts else counts
    of_prompt = np.repeat(prompts, counts)
    starts = np.concatenate([[0], counts.cumsum()[:-1]])
    sizes = prompts * copies + np.add.reduceat(completions, starts)
    attended = (copies * prompts * (prompts + 1) / 2).sum() + (completions * (of_prompt + (completions + 1) / 2)).sum()
    number = max(1, round(float(counts.mean()))) if share_prompts else 1
    return DataSizes(
        groups=len(prompts),
        tokens=int(sizes.sum()),
        completion_tokens=int(completions.sum()),
        attended=float(attended),
        prompt=max(1, round(float(prompts.mean()))),
        completions=(max(1, round(float(completions.mean()))),) * number,
        longest=int(sizes.max()),
    )
