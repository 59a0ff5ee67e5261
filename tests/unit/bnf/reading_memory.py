"""How much memory a process takes for the groups that it reads. A spawned process imports this module; without torch that is quick."""

from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from bnf.data.groups import PromptGroup, read_groups


def memory_of_reading(source: Path | Sequence[PromptGroup], file: Path, answer: Connection) -> None:
    """Says how many bytes of the mapped file the process has when it has read all token ids, and how many of its own it took."""

    def own() -> int:
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
        return int(line.split()[1]) * 1024

    before = own()
    groups = read_groups(source) if isinstance(source, Path) else source
    total = sum(int(np.sum(ids)) for group in groups for ids in (group.prompt_ids, group.completions[0].token_ids))
    added = own() - before
    lines = Path("/proc/self/smaps").read_text().splitlines()
    [start] = [number for number, line in enumerate(lines) if line.endswith(str(file))]
    kinds = dict(line.split(":", 1) for line in lines[start + 1 : start + 20])
    mapped = {name: int(kinds[name].split()[0]) * 1024 for name in ("Rss", "Pss", "Anonymous")}
    answer.send({"total": total, "added": added, **mapped})
