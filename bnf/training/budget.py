"""`max_tokens_per_row: auto`: the largest row that fits into memory, found by trials before the reference pass, whose rows it decides too.

A trial is a real training of two steps on the longest groups, in the same processes (of this node), with the reference that it needs:
forward, backward and the optimizer's states are all there. It runs in a process of its own, so that memory may end it. The estimate
(`bnf.training.memory`) says where to begin. Then bisection closes in, in steps of 256 tokens. On a CPU a trial fits where its processes
keep within 90 % of the memory that was free; on CUDA where it ends. 5 % of the row that fitted are left as a margin.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bnf.data.groups import PromptGroup, read_groups, write_groups
from bnf.data.longest import longest_of_all
from bnf.data.row_order import tokens_in_row
from bnf.data.sizes import DataSizes, data_sizes
from bnf.files import read_note, write_json
from bnf.host import available_memory
from bnf.model.device import device_kind, devices
from bnf.model.shapes import ModelShape, read_shape
from bnf.process import module_command, module_environment, stop_group
from bnf.progress import Progress
from bnf.training.config import TrainConfig
from bnf.training.fields import AUTO, MEMORY_FIELDS
from bnf.training.fitting import remedies
from bnf.training.gpus import ALLOCATOR_SHARE, GIB
from bnf.training.memory import estimate
from bnf.training.row_memory import Device, RowSizes

_STEP = 256
# A trial ends the search where its row is within this share of one that doesn't fit.
_PRECISION = 1 / 16
# The share of a row that fitted which is given up: batches of other lengths may need more memory than the trial did.
_MARGIN = 0.05
# Of a CPU's free memory, what trainings may take.
_CPU_SHARE = 0.9
_NUM_STEPS = 2
_TRIALS_FILE = "trials.json"
_POLL_S, _GRACE_S = 0.05, 5.0

# trial(tokens) → whether a row of so many tokens fits.
Trial = Callable[[int], bool]


@dataclass(frozen=True)
class Bounds:
    """The rows that are tried: `least` holds the longest group, and none is longer than `most`; `guess` comes first."""

    least: int
    most: int
    guess: int


def find_budget(config: TrainConfig, model_dir: Path, groups_dir: Path, work_dir: Path, progress: Progress) -> int:
    """The largest `max_tokens_per_row` that fits on this machine. `work_dir` keeps what was found, for a search that was killed.

    Raises:
        ValueError: not even the longest group fits; the message names it and what to change.
        RuntimeError: a trial failed for another reason than memory.
    """
    assert config.max_tokens_per_row == AUTO
    device: Device = "cuda" if device_kind() == "cuda" else "cpu"
    shape, data = read_shape(model_dir / "config.json"), data_sizes(groups_dir, share_prompts=config.share_prompts)
    config = replace(config, **{name: getattr(config.placement.of_one_node, name) for name in asdict(config.placement)})
    groups = sorted(read_groups(groups_dir), key=lambda group: -tokens_in_row(group, config.share_prompts))
    limit = _limit(config, device)
    bounds = row_bounds(config, groups, longest_of_all(groups_dir, config.share_prompts)[1])
    bounds = replace(bounds, guess=_guess(shape, config, data, device, limit, bounds))
    known = _Known(work_dir / _TRIALS_FILE, {name: getattr(config, name) for name in MEMORY_FIELDS}, asdict(data))
    if known.found is not None:
        return known.found

    def trial(tokens: int) -> bool:
        if tokens not in known.outcomes:
            progress(len(known.outcomes), len(known.outcomes) + 1, f"trials, now a row of {tokens:,} tokens")
            fits = _fits(config, groups, model_dir, work_dir / "trial", tokens, limit if device == "cpu" else None)
            known.outcomes[tokens] = fits
            known.write()
        return known.outcomes[tokens]

    found = search(bounds, trial)
    if found is None:
        name, tokens = longest_of_all(groups_dir, config.share_prompts)
        row = RowSizes(tokens, data.prompt, data.completions)
        numeric = replace(config, max_tokens_per_row=bounds.least)
        room = "the device" if limit is None else f"{limit / GIB:.1f} GiB in each process"
        raise ValueError(
            f"max_tokens_per_row=auto must find a row that holds every group, got none: the longest group, {name!r}, has {tokens} tokens "
            f"and doesn't fit into {room}; {remedies(shape, numeric, row, device, limit or 0.0, longest=tokens)}, or lower "
            "prepare.max_length"
        )
    known.found = found
    known.write()
    progress(len(known.outcomes), len(known.outcomes), f"trials: rows of {found:,} tokens")
    return found


def row_bounds(config: TrainConfig, groups: Sequence[PromptGroup], longest: int) -> Bounds:
    """The rows to try, of groups in the order of their length: no row gets longer than as many of the longest as it may hold."""
    most = sum(tokens_in_row(group, config.share_prompts) for group in groups[: config.max_groups_per_row])
    least = _up(longest)
    return Bounds(least, max(least, _up(most)), least)


def search(bounds: Bounds, trial: Trial) -> int | None:
    """The largest row that fits, less the margin. Without the margin where the longest possible row fits; None where no row fits."""
    fits: int | None = None
    too_long: int | None = None
    tokens = min(max(_down(bounds.guess), bounds.least), bounds.most)
    while True:
        if trial(tokens):
            fits = tokens
            if tokens == bounds.most:
                return tokens
        elif tokens == bounds.least:
            return None
        else:
            too_long = tokens
        if fits is not None and too_long is not None and too_long - fits <= max(_STEP, fits * _PRECISION):
            return max(bounds.least, _down(fits * (1 - _MARGIN)))
        if too_long is None:
            assert fits is not None
            tokens = min(bounds.most, max(_up(fits * 1.25), fits + _STEP))
        else:
            below = bounds.least if fits is None else fits
            # Between both, in whole steps; where there is nothing between, the least.
            middle = _down((below + too_long) / 2)
            tokens = middle if below < middle < too_long else bounds.least


def _up(tokens: float) -> int:
    return -int(-tokens // _STEP) * _STEP


def _down(tokens: float) -> int:
    return int(tokens // _STEP) * _STEP


def _limit(config: TrainConfig, device: Device) -> float | None:
    """Bytes that a process may take; None where the system doesn't say."""
    if device == "cuda":
        smallest = min((memory for _, memory in devices()), default=None)
        return None if smallest is None else smallest * (1 - ALLOCATOR_SHARE)
    free = available_memory()
    return None if free is None else free * _CPU_SHARE / config.nproc_per_node


def _guess(shape: ModelShape, config: TrainConfig, data: DataSizes, device: Device, limit: float | None, bounds: Bounds) -> int:
    """The largest row that fits by the estimate."""
    if limit is None:
        return bounds.most
    least, most = bounds.least, bounds.most
    while most - least >= _STEP:
        tokens = _up((least + most) / 2)
        needed = estimate(shape, config, RowSizes(tokens, data.prompt, data.completions), device).device.total
        least, most = (tokens, most) if needed <= limit else (least, tokens - _STEP)
    return least


class _Known:
    """Which rows fitted, and what was found, in a file: a search that was killed tries none twice, and one that ended isn't made again."""

    def __init__(self, file: Path, settings: Mapping[str, object], data: Mapping[str, object]) -> None:
        self._file = file
        # As JSON has it.
        self._of = json.loads(json.dumps({"settings": settings, "data": data}))
        kept = read_note(file) or {}
        same = kept.get("of") == self._of
        self.outcomes: dict[int, bool] = {int(tokens): bool(fits) for tokens, fits in kept["fits"].items()} if same else {}
        self.found: int | None = kept["found"] if same else None

    def write(self) -> None:
        """Keeps what is known."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        outcomes = {str(tokens): fits for tokens, fits in sorted(self.outcomes.items())}
        write_json(self._file, {"of": self._of, "fits": outcomes, "found": self.found}, indent=1, durable=True)


def _fits(
    config: TrainConfig, groups: Sequence[PromptGroup], model_dir: Path, folder: Path, tokens: int, limit: float | None
) -> bool:
    """Whether two steps with rows of so many tokens fit. On a CPU `limit` are the bytes of each process."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    chosen = worst_groups(config, groups, tokens)
    write_groups(folder / "groups", chosen)
    own = replace(
        config,
        max_tokens_per_row=tokens,
        global_batch_size=len(chosen),
        max_steps=_NUM_STEPS,
        num_train_epochs=TrainConfig.num_train_epochs,
        label_weighting=TrainConfig.label_weighting,
        save_steps=1_000_000,
        keep_best="none",
        early_stopping_patience=None,
        report_to="none",
    )
    write_json(folder / "trial.json", {"config": own.to_dict(), "model_dir": str(model_dir)})
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            module_command("bnf.training.trial", str(folder / "trial.json")),
            stdout=log,
            stderr=log,
            env=module_environment(),
            start_new_session=True,
        )
        try:
            within = _watch(process, None if limit is None else limit * config.nproc_per_node)
        finally:
            stop_group(process, _GRACE_S)
    outcome = folder / "outcome.json"
    if within and not outcome.is_file() and process.returncode != -9:
        last = (folder / "log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"a trial for max_tokens_per_row=auto must end, got exit code {process.returncode}: {last}")
    fits = within and outcome.is_file() and bool(json.loads(outcome.read_text())["fits"])
    shutil.rmtree(folder)
    return fits


def worst_groups(config: TrainConfig, groups: Sequence[PromptGroup], tokens: int) -> list[PromptGroup]:
    """Two rows of so many tokens for each process: the longest groups, and then what fills the row. `groups` are in the order of their
    length. Every row has the same ones; where that is a single group, every other has the next, as KL pairs take two prompts.
    """
    worst, left = _filled(config, groups, tokens)
    other = _filled(config, left, tokens)[0] if len(worst) == 1 and left else worst
    rows = [worst, other] * config.num_processes
    return [replace(group, id=f"trial-{place}") for place, group in enumerate(group for row in rows for group in row)]


def _filled(config: TrainConfig, groups: Sequence[PromptGroup], tokens: int) -> tuple[list[PromptGroup], list[PromptGroup]]:
    """The first groups that fit into a row of so many tokens, and the others."""
    row: list[PromptGroup] = []
    left: list[PromptGroup] = []
    room = tokens
    for group in groups:
        size = tokens_in_row(group, config.share_prompts)
        if size <= room and len(row) < config.max_groups_per_row:
            row.append(group)
            room -= size
        else:
            left.append(group)
    return row, left


def _watch(process: subprocess.Popen[bytes], limit: float | None) -> bool:
    """Waits until the trial's processes end; False as soon as they hold more than `limit` bytes together."""
    while process.poll() is None:
        if limit is not None and _resident(process.pid) > limit:
            return False
        time.sleep(_POLL_S)
    return True


def _resident(pid: int) -> int:
    """Bytes that a process and all that it started hold."""
    import psutil

    total = 0
    try:
        first = psutil.Process(pid)
        for one in (first, *first.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        # It ended meanwhile; the next look comes soon.
        return total
    return total
