"""`bnf show RUN --items BENCHMARK`: the items of a scored benchmark, with what each model made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.formats import visible
from flows.commands.showing import taken_run
from flows.display import print_json
from flows.errors import RecipeError
from flows.runs.home import home_folder, open_store
from flows.runs.record import SCORES, Run
from flows.wording import place
from tasks.names import TaskName
from tasks.store import Store

if TYPE_CHECKING:
    from evaluation.report.excerpts import Excerpt
    from evaluation.report.items import Item, Reply

# Without --limit; with --json all.
NUM_SHOWN = 10
# The stages whose files are read, and these files.
_READ = {"score": ("scores.jsonl",), "generate": ("completions.jsonl", "items.jsonl")}
_ENDS = {"stop": "ended by itself", "length": "cut off"}


def show_items(name: str, benchmark: str, *, filter: str | None, search: str | None, limit: int | None, as_json: bool) -> None:
    """Print the items that the filter and the search take: the first `limit` ones, and how many there are.

    Raises:
        RecipeError: the run has no such benchmark, its files aren't on this machine, or there is no such filter.
    """
    from evaluation.report.items import Items, filter_name

    if limit is not None and limit < 1:
        raise RecipeError(f"--limit must be 1 or more, got {limit}; leave it out for {NUM_SHOWN}")
    # A name that no run has is refused before the run's state is looked at.
    filter = _filter(filter, filter_name)
    home = home_folder()
    run = taken_run(home, name, SCORES)
    folders = _folders(run, benchmark, open_store(home))
    items = Items(folders["score"], folders["generate"])
    filter = _filter(filter, lambda text: filter_name(text, items.filters))
    ids = items.chosen(filter, search)
    if limit is None and not as_json:
        limit = NUM_SHOWN
    shown = items.read(ids[:limit])
    if as_json:
        print_json(
            {
                "run": run.id,
                "benchmark": benchmark,
                "filter": filter,
                "search": search,
                "num_items": len(items.kinds),
                "num_found": len(ids),
                "num_left_out": items.num_left_out,
                "items": [item.to_json() for item in shown],
            }
        )
        return
    for item in shown:
        _print(item)
    print(f"{run.id}, {benchmark}: {_count(len(ids), len(items.kinds), filter, search)}{_more(len(shown), len(ids))}")
    if any(reply.sample is not None for item in shown for reply in item.replies):
        print("with several samples an item is right where more than half of them are")
    if items.num_left_out:
        print(f"{items.num_left_out} more items are not listed: not every model has them")


def _filter(text: str | None, named: Callable[[str], str]) -> str | None:
    try:
        return None if text is None else named(text)
    except ValueError as error:
        raise RecipeError(f"--{error}") from None


def _folders(run: Run, benchmark: str, store: Store) -> Mapping[str, Mapping[str, Path]]:
    """The folders of a benchmark's scores and completions, by stage and then by model."""
    from evaluation.report.inputs import MODELS

    found: dict[str, list[TaskName]] = {}
    judged = False
    for of in map(TaskName.from_id, run.artifacts):
        if of.stage == "score" and of.checkpoint is None:
            found.setdefault(str(of.benchmark), []).append(of)
        judged |= of.stage == "judge" and of.benchmark == benchmark
    if benchmark not in found:
        why = "; a judge compared its answers, which are in the report" if judged else ""
        has = (
            f"the run has {', '.join(sorted(found))}" if found else f"the run has none ({run.state}), run its evaluation first"
        )
        raise RecipeError(f"--items must be a benchmark that {run.id} scored, got {benchmark!r}{why}; {has}")
    folders: dict[str, dict[str, Path]] = {stage: {} for stage in _READ}
    for of in sorted(found[benchmark], key=lambda of: MODELS.index(str(of.role))):
        for stage, files in _READ.items():
            node = replace(of, stage=stage)
            artifact = run.artifacts.get(node.id)
            folder = None if artifact is None else store.fetch(artifact)
            if folder is None or not all((folder / file).is_file() for file in files):
                raise RecipeError(
                    f"RUN must have the files of {node.label} on this machine, got {run.id} without {' and '.join(files)}"
                    f"{'' if folder is None else f' in {place(folder)}'}; name the shared store that has them by BNF_STORE, or make "
                    "them again with `bnf run`"
                )
            folders[stage][str(of.role)] = folder
    return folders


def _count(number: int, num_items: int, filter: str | None, search: str | None) -> str:
    """`3 of 40 items are wrong→right and hold "x"`."""
    said = [f"are {filter}"] if filter else []
    said += [f'hold "{visible(search)}"'] if search else []
    return f"{number} of {num_items} items {' and '.join(said)}" if said else f"{num_items} items"


def _more(num_shown: int, number: int) -> str:
    return f"; above the first {num_shown}, --limit {number} shows all" if num_shown < number else ""


def _print(item: Item) -> None:
    from evaluation.report.excerpts import as_field

    print(f"{visible(item.id)}  {item.kind}")
    width = max(map(len, item.fields), default=0)
    for name, value in item.fields.items():
        part = as_field(value)
        _print_text(f"  {visible(name):<{width}}  ", part)
    for reply in item.replies:
        _print_reply(reply)
    print()


def _print_reply(reply: Reply) -> None:
    from evaluation.report.excerpts import as_text, gist

    said = [f"read as {visible(gist(reply.answer))} by rule {reply.rule}" if reply.answer is not None else f"rule {reply.rule}"]
    if reply.num_completion_tokens is not None:
        said.append(f"{reply.num_completion_tokens} token{'s' if reply.num_completion_tokens != 1 else ''}")
    if reply.finish_reason:
        said.append(_ENDS.get(reply.finish_reason, visible(reply.finish_reason)))
    if reply.votes:
        said.append("the only sample with its answer" if reply.votes == 1 else f"{reply.votes} samples have its answer")
    who = reply.model if reply.sample is None else f"{reply.model}, sample {reply.sample}"
    print(f"  {who}: {reply.outcome.replace('_', ' ')}, {', '.join(said)}")
    if reply.thought is not None:
        of = f"{len(reply.thought):,} characters"
        print(
            f"    (after a thought of {of})" if reply.completion is not None else f"    (a thought of {of}, which doesn't end)"
        )
    if reply.completion is not None:
        part = as_text(reply.completion)
        _print_text("    ", part)


def _print_text(before: str, part: Excerpt) -> None:
    """A text with each further line below its first one."""
    lines = visible(part.text or "(empty)").split("\n")
    if part.num_left_out:
        lines.append(f"… {part.num_left_out:,} more characters; --json has all")
    if part.end:
        lines += ["…", *visible(part.end).split("\n")]
    print(before + ("\n" + " " * len(before)).join(lines))
