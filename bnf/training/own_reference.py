"""The values that a training computes itself, where the cached ones don't fit the arithmetic of the process that trains: those of the
reference, and where that is another model, those of the model that training starts from (`old`), and of the base model (`base`).

The cache may come from another machine, whose processor sums in another order, or from a process with other kernels. The step-0 check
finds that. Then it is noted beside the training, which fails. The next try computes the values itself, from the same weights, and
is checked again. Where the cache says that another kind of device made it, the first try does so.
"""

import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from bnf.files import read_note, write_json
from bnf.model.digests import model_digest
from bnf.parallel.placement import Placement
from bnf.progress import Progress
from bnf.reference.index import read_index
from bnf.reference.launch import ReferenceCall
from bnf.training.config import TrainConfig

# Which cached values: their name in the names of files, and in messages. `base` is the base model, where the reference is another.
REFERENCE, OLD, BASE = "reference", "old", "base"
TITLES = {REFERENCE: "the reference", OLD: "the values of old", BASE: "the values of base"}
# What a message says of values that aren't of the model that they should be of.
OTHER_WEIGHTS = "of other weights"
# cache(config, model_dir, groups_dir, reference_dir, progress, of, temperature)
CacheFor = Callable[[TrainConfig, Path, Path, Path, Progress, str, float], None]


class ReferenceMismatch(ValueError):
    """Policy and cached values (`of` is `reference`, `old` or `base`) have the same weights, and different log-probabilities. `mean_weight`
    is BNF's mean weight, or of `old` and `base` the mean ratio.
    """

    def __init__(self, message: str, mean_weight: float = math.nan, of: str = REFERENCE) -> None:
        super().__init__(message)
        self.mean_weight, self.of = mean_weight, of


@dataclass(frozen=True)
class Mismatch:
    """Why cached values are not used: the mean weight (or ratio) under them before the first step, or how another device computed them."""

    mean_weight: float | None = None
    elsewhere: str | None = None


def note_mismatch(output_dir: Path, mismatch: Mismatch, of: str = REFERENCE) -> None:
    """Notes it beside the training, for the next try."""
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(_note_file(output_dir, of), asdict(mismatch), durable=True)


def noted_mismatch(output_dir: Path, of: str = REFERENCE) -> Mismatch | None:
    """What an earlier try noted; None where it noted nothing."""
    found = read_note(_note_file(output_dir, of))
    return None if found is None else Mismatch(**found)


def is_of(reference_dir: Path, model_dir: Path) -> bool:
    """Whether the cache holds this model's own values: those of its logits as they are, at temperature 1."""
    return read_index(reference_dir).identity.temperature == 1 and is_from(reference_dir, model_dir)


def is_from(reference_dir: Path, model_dir: Path) -> bool:
    """Whether the cache was computed from this model's weights, at whatever temperature."""
    return read_index(reference_dir).identity.model == model_digest(model_dir)


def not_its_own(
    reference_dir: Path, model_dir: Path, other: str = "of another model than the one that training starts from"
) -> str | None:
    """Why the cache does not hold this model's own values, in words; None where it does. `other` says that the weights are others."""
    temperature = read_index(reference_dir).identity.temperature
    whose = [] if is_from(reference_dir, model_dir) else [other]
    whose += [] if temperature == 1 else [f"at temperature {temperature:g}"]
    return " and ".join(whose) or None


def own_reference(
    config: TrainConfig,
    model_dir: Path,
    groups_dir: Path,
    output_dir: Path,
    progress: Progress,
    cache: CacheFor,
    *,
    of: str = REFERENCE,
    temperature: float = 1.0,
) -> Path:
    """Has the training's own cache computed by `cache` where it is not there yet; returns its folder."""

    def report(done: int, total: int, note: str) -> None:
        progress(done, total, f"{of}: {note}")

    cache(config, model_dir, groups_dir, _own_folder(output_dir, of), report, of, temperature)
    return _own_folder(output_dir, of)


def cache_for(
    config: TrainConfig,
    model_dir: Path,
    groups_dir: Path,
    reference_dir: Path,
    progress: Progress,
    of: str = REFERENCE,
    temperature: float = 1.0,
) -> None:
    """Caches the values `of` a model that this training needs, as the reference stage does, in this process."""
    _call(config, model_dir, groups_dir, reference_dir, Placement(), of, temperature).launch(progress)


def launch_cache_for(
    config: TrainConfig,
    model_dir: Path,
    groups_dir: Path,
    reference_dir: Path,
    progress: Progress,
    of: str = REFERENCE,
    temperature: float = 1.0,
) -> None:
    """The same in as many processes as the training has."""
    _call(config, model_dir, groups_dir, reference_dir, config.placement, of, temperature).launch(progress)


def _call(
    config: TrainConfig,
    model_dir: Path,
    groups_dir: Path,
    reference_dir: Path,
    placement: Placement,
    of: str,
    temperature: float,
) -> ReferenceCall:
    return ReferenceCall(
        model_dir,
        groups_dir,
        reference_dir,
        max_tokens_per_row=config.row_tokens,
        max_groups_per_row=config.max_groups_per_row,
        share_prompts=config.share_prompts,
        bf16=config.bf16,
        weights=config.weights,
        load_in_4bit=config.load_in_4bit,
        attention=config.attention,
        # Nothing reads them of the others.
        kl_pairs=config.needs_kl_pairs and of == REFERENCE,
        temperature=temperature,
        placement=placement,
    )


def drop_own_reference(output_dir: Path) -> None:
    """Removes the caches and the notes: after the training's end nothing reads them."""
    for of in (REFERENCE, OLD, BASE):
        shutil.rmtree(_own_folder(output_dir, of), ignore_errors=True)
        _note_file(output_dir, of).unlink(missing_ok=True)


def _own_folder(output_dir: Path, of: str) -> Path:
    return output_dir / f"own_{of}"


def _note_file(output_dir: Path, of: str) -> Path:
    return output_dir / f"{of}_mismatch.json"
