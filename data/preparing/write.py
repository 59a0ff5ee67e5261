"""Writes the groups of the prompts in staging, in the order in which these first appeared."""

from __future__ import annotations

import json
import shutil
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from bnf.data.groups import Completion, GroupsWriter, PromptGroup
from data.preparing.group_counter import GroupCounter
from data.preparing.languages import language_of_prompt
from data.preparing.processes import in_processes
from data.preparing.staging import CandidateEntry, StagedRows, Staging
from evaluation.records import Record

# A process writes the groups of so many prompts at once.
PART_PROMPTS = 4096
# Starting processes takes seconds: with fewer parts this process does the work.
_PARTS_WORTH_PROCESSES = 8
# Subfolder of what is being written, with the data sets of parts.
_PARTS = "parts.partial"

# Groups with their texts, as `GroupsWriter.add` takes them.
Offline = Callable[[int], Iterable[tuple[PromptGroup, Record]]]


class Writing(NamedTuple):
    """Which groups are written, and how.

    Attributes:
        origins: the sources' names, for where completions come from.
        with_pairs: whether groups say which completions are compared.
        dev: whether they are those of the dev set, or those that are trained on.
        every_sample: whether completions of one text and label are written each for itself.
    """

    origins: Sequence[str]
    with_pairs: bool
    dev: bool
    every_sample: bool


def write_groups(
    staging: Staging, folder: Path, writing: Writing, num_proc: int, offline: Offline = lambda _: ()
) -> GroupCounter:
    """Writes a data set into `folder`, and after it the groups that `offline` gives for its number of groups.

    Of many prompts `num_proc` processes write the groups of a part each. The parts are joined in their order: the bytes are the same.
    """
    last = staging.number("select max(no) from prompts")
    parts = [range(first, min(first + PART_PROMPTS, last + 1)) for first in range(1, last + 1, PART_PROMPTS)]
    counter = GroupCounter()
    # Of an earlier try that was killed.
    shutil.rmtree(folder / _PARTS, ignore_errors=True)
    with GroupsWriter(folder) as writer:
        if num_proc == 1 or len(parts) < _PARTS_WORTH_PROCESSES:
            for part in parts:
                _write(staging, part, writing, writer, counter)
        else:
            setting = _Setting(staging.path, folder / _PARTS, writing)
            try:
                with closing(in_processes(_PartWriter, setting, parts, num_proc)) as written:
                    for place, own in written:
                        if own.num_groups:
                            writer.extend(place)
                            counter.update(own)
                            shutil.rmtree(place)
            finally:
                shutil.rmtree(folder / _PARTS, ignore_errors=True)
        for group, text in offline(counter.num_groups):
            writer.add(group, text)
            counter.add(group, language_of_prompt(text["messages"]), 0, offline=True)
    return counter


class _Setting(NamedTuple):
    staging: Path
    folder: Path
    writing: Writing


class _PartWriter:
    """Writes the groups of a part of the prompts as a data set of their own; where there are none, nothing."""

    def __init__(self, setting: _Setting) -> None:
        self._staging, self._setting = StagedRows(setting.staging), setting

    def __call__(self, part: range) -> tuple[Path, GroupCounter]:
        place, counter = self._setting.folder / str(part.start), GroupCounter()
        if self._staging.number(f"select count(*) {_WRITTEN}", self._setting.writing.dev, part.start, part.stop):
            with GroupsWriter(place) as writer:
                _write(self._staging, part, self._setting.writing, writer, counter)
        return place, counter


_WRITTEN = "from prompts where live = 1 and dev = ? and no >= ? and no < ?"


def _write(staging: StagedRows, part: range, writing: Writing, writer: GroupsWriter, counter: GroupCounter) -> None:
    for no, id, messages, context, ids, language in staging.run(
        f"select no, id, messages, context, ids, language {_WRITTEN} order by no", writing.dev, part.start, part.stop
    ):
        completions, pairs = _completions(staging, no, writing)
        prompt_ids = array("i")
        prompt_ids.frombytes(ids)
        group = PromptGroup(
            id,
            prompt_ids,
            tuple(
                Completion(one.ids, label, one.score, "/".join(filter(None, [writing.origins[one.source], one.origin])))
                for one, label in completions
            ),
            pairs,
        )
        prompt = {"messages": json.loads(messages), **json.loads(context)}
        writer.add(group, {**prompt, "completions": [one.text for one, _ in completions]})
        texts = {one.text for one, _ in completions}
        sides = {(one.text, label) for one, label in completions}
        counter.add(group, language, len(sides) - len(texts))


def _completions(
    staging: StagedRows, prompt: int, writing: Writing
) -> tuple[list[tuple[CandidateEntry, int]], tuple[tuple[int, int], ...]]:
    """A prompt's completions with their labels, one for each text and label (of samples that are all kept: one for each), and the pairs
    among them, by the selected preferences.
    """
    candidates = {one.no: one for one in staging.candidates(prompt)}
    kept: dict[tuple[str, int], CandidateEntry] = {}
    links: dict[tuple[tuple[str, int], tuple[str, int]], None] = {}
    for preference in staging.selected(prompt):
        for sign in preference.signs:
            sides = [(str(no) if writing.every_sample else candidates[no].text, label * sign) for no, label in preference.sides]
            for (no, _), side in zip(preference.sides, sides, strict=True):
                kept.setdefault(side, candidates[no])
            if writing.with_pairs and len(sides) == 2:
                links[(sides[0], sides[1]) if sign > 0 else (sides[1], sides[0])] = None
    # A text that is both preferred and dispreferred is there twice.
    order = sorted(kept, key=lambda side: (kept[side].no, -side[1]))
    place = {side: index for index, side in enumerate(order)}
    return [(kept[side], side[1]) for side in order], tuple((place[chosen], place[rejected]) for chosen, rejected in links)
