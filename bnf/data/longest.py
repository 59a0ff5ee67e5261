"""The longest group of a data set, which a row has to hold, and its longest sequence; found from the stored lengths, without torch."""

from pathlib import Path

import numpy as np
from safetensors import safe_open

from bnf.data.groups import DEV, GROUPS_FILE


def check_longest(groups_dir: Path, *, max_tokens_per_row: int, share_prompts: bool) -> None:
    """Checks that a row holds every group of a data set, dev groups too.

    Raises:
        ValueError: the longest group, which is named, is too long.
    """
    group, num_tokens = longest_of_all(groups_dir, share_prompts)
    if num_tokens > max_tokens_per_row:
        raise too_long(group, num_tokens, max_tokens_per_row)


def longest_of_all(groups_dir: Path, share_prompts: bool) -> tuple[str, int]:
    """As `longest_group`, of a data set with its dev groups."""
    return max((longest_group(folder, share_prompts) for folder in _folders(groups_dir)), key=lambda found: found[1])


def longest_group(folder: Path, share_prompts: bool) -> tuple[str, int]:
    """The id of the group that takes the most tokens of a row, and how many; without shared prompts each completion counts its copy."""
    names = ("prompt_lengths", "completion_lengths", "completion_offsets", "id_offsets", "id_bytes")
    with safe_open(folder / GROUPS_FILE, framework="numpy") as file:
        prompts, completions, offsets, id_offsets, ids = (file.get_tensor(name) for name in names)
    copies = 1 if share_prompts else np.diff(offsets)
    # Every group has a completion: no sum is of nothing.
    sizes = prompts * copies + np.add.reduceat(completions.astype(np.int64), offsets[:-1])
    place = int(sizes.argmax())
    return ids[id_offsets[place] : id_offsets[place + 1]].tobytes().decode(), int(sizes[place])


def longest_sequence(groups_dir: Path) -> int:
    """The tokens of the longest prompt and completion together, in groups and dev groups."""
    return max(_longest_sequence(folder) for folder in _folders(groups_dir))


def _longest_sequence(folder: Path) -> int:
    with safe_open(folder / GROUPS_FILE, framework="numpy") as file:
        prompts, completions, offsets = (
            file.get_tensor(name) for name in ("prompt_lengths", "completion_lengths", "completion_offsets")
        )
    return int((np.repeat(prompts.astype(np.int64), np.diff(offsets)) + completions).max())


def _folders(groups_dir: Path) -> list[Path]:
    return [folder for folder in (groups_dir, groups_dir / DEV) if (folder / GROUPS_FILE).is_file()]


def too_long(group: str, num_tokens: int, max_tokens_per_row: int) -> ValueError:
    """The error of a group that is longer than a row."""
    return ValueError(
        f"train.max_tokens_per_row must hold every group, got {max_tokens_per_row} while the longest group, {group!r}, has "
        f"{num_tokens} tokens; raise it to {num_tokens} or more, or lower prepare.max_length, which leaves longer completions out"
    )
