"""What every training begins with, in one process or in several: its checks, its folder, and the choice of its reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

from bnf.data.groups import DEV, GROUPS_FILE, PromptGroup, read_groups
from bnf.data.packing import Row
from bnf.files import read_note, write_json
from bnf.model.device import attention_counts
from bnf.model.digests import model_digest
from bnf.objectives import load_objective
from bnf.progress import Progress
from bnf.reference.index import made_elsewhere, read_index
from bnf.training.checks import check_data, check_loggers, check_machine, check_processes
from bnf.training.config import TrainConfig
from bnf.training.leftovers import CHECKPOINTS
from bnf.training.own_reference import (
    BASE,
    OLD,
    OTHER_WEIGHTS,
    REFERENCE,
    CacheFor,
    Mismatch,
    cache_for,
    is_from,
    is_of,
    not_its_own,
    note_mismatch,
    noted_mismatch,
    own_reference,
)
from bnf.training.rows import training_rows
from bnf.training.summary import TrainSummary, read_summary

_IDENTITY_FILE = "training.json"


@dataclass(frozen=True)
class Folders:
    """The folders that a training reads and writes."""

    model_dir: Path
    groups_dir: Path
    reference_dir: Path | None
    output_dir: Path
    # Of the reference's model, where that is not the model that the training starts from.
    reference_model_dir: Path | None = None
    # The cached values of the model that the training starts from, where the objective needs them and the reference is another model.
    old_dir: Path | None = None
    # The cached values of the base model, from which shifts are then measured, where the recipe names another reference; and the base
    # model's folder, where the training doesn't start from it.
    base_dir: Path | None = None
    base_model_dir: Path | None = None

    @property
    def referred_model_dir(self) -> Path:
        """The folder of the reference's model."""
        return self.reference_model_dir or self.model_dir

    @property
    def compared_model_dir(self) -> Path:
        """The folder of the model that shifts are measured from, and KL: the reference's, or the base model's where `base_dir` is given."""
        return self.referred_model_dir if self.base_dir is None else self.base_model_dir or self.model_dir


@dataclass(frozen=True)
class Cached:
    """Values that are read: those of the `reference`, of `old` or of `base`, their folder, and why training computed them itself, where
    it did.
    """

    of: str
    folder: Path
    mismatch: Mismatch | None


@dataclass(frozen=True)
class Prepared:
    """What `prepare` gives a training."""

    groups: Sequence[PromptGroup]
    rows: Sequence[Row]
    # The cached reference, or the training's own one where that doesn't fit (`mismatch`).
    reference_dir: Path | None
    mismatch: Mismatch | None
    # The values of the model that the training starts from, where they are not the reference's.
    old_dir: Path | None
    old_mismatch: Mismatch | None
    # The base model's values, where shifts are measured from them.
    base_dir: Path | None
    base_mismatch: Mismatch | None
    # The summary where the training ended in an earlier call: nothing is left to do.
    finished: TrainSummary | None

    @property
    def caches(self) -> list[Cached]:
        """The cached values that are read, each once: those of `base` may be those of `old`."""
        base_dir = None if self.base_dir == self.old_dir else self.base_dir
        found = (
            (OLD, self.old_dir, self.old_mismatch),
            (BASE, base_dir, self.base_mismatch),
            (REFERENCE, self.reference_dir, self.mismatch),
        )
        return [Cached(of, folder, mismatch) for of, folder, mismatch in found if folder is not None]

    def checked(self, model_dir: Path, *, step0_check: bool) -> list[Cached]:
        """Those that the policy, which starts from `model_dir`, must equal before its first step: of the reference `step0_check` says so,
        and of the others their model.
        """
        return [cache for cache in self.caches if (step0_check if cache.of == REFERENCE else is_of(cache.folder, model_dir))]


def prepare(
    config: TrainConfig, folders: Folders, *, step0_check: bool, progress: Progress, cache: CacheFor = cache_for
) -> Prepared:
    """Checks settings, data, machine and output folder, and has `cache` compute the training's own reference where the cached one
    doesn't fit.

    Raises:
        FileNotFoundError: the model, the groups or the reference are not there.
        ValueError: the objective's needs, the rows or the output folder do not fit.
    """
    groups_dir, reference_dir, output_dir = folders.groups_dir, folders.reference_dir, folders.output_dir
    check_loggers(config)
    groups = read_groups(groups_dir)
    objective = load_objective(config.objective, config.objective_options)
    if objective.needs_cache and reference_dir is None:
        raise ValueError(
            f"reference_dir must be given for objective {config.objective!r}, got None; run the reference stage first"
        )
    old_dir = folders.old_dir if objective.needs_old else None
    is_other = reference_dir is not None and not is_of(reference_dir, folders.model_dir)
    if objective.needs_old and old_dir is None and (is_other or folders.reference_model_dir is not None):
        raise ValueError(
            f"old_dir must be given for objective {config.objective!r} where the reference is another model than the one that training "
            f"starts from, or at another temperature, got None; cache the log-probabilities of {folders.model_dir} there"
        )
    check_data(config, groups)
    rows = training_rows(config, groups)
    check_processes(config, len(rows))
    check_machine(config)
    if folders.base_dir is not None:
        if (other := not_its_own(folders.base_dir, folders.compared_model_dir, OTHER_WEIGHTS)) is not None:
            raise ValueError(
                f"base_dir must be of the base model, {folders.compared_model_dir}, got {folders.base_dir}, which is {other}; cache that "
                "model's values"
            )
    elif reference_dir is not None and (groups_dir / DEV).is_dir():
        _check_compared_model(reference_dir, folders.compared_model_dir)
    _claim(output_dir, config, folders.model_dir, groups_dir)
    finished = read_summary(output_dir)
    mismatch = None
    if reference_dir is not None and finished is None:
        mismatch = _mismatch(config, reference_dir, folders.referred_model_dir, output_dir, step0_check=step0_check)
        if mismatch is not None:
            temperature = read_index(reference_dir).identity.temperature
            reference_dir = own_reference(
                config, folders.referred_model_dir, groups_dir, output_dir, progress, cache, temperature=temperature
            )
    old_mismatch = None
    if old_dir is not None and finished is None:
        if (other := not_its_own(old_dir, folders.model_dir, OTHER_WEIGHTS)) is not None:
            raise ValueError(
                f"old_dir must be of the model that training starts from, {folders.model_dir}, got {old_dir}, which is {other}; cache "
                "that model's values"
            )
        old_mismatch = _noted_or_elsewhere(config, old_dir, output_dir, OLD)
        if old_mismatch is not None:
            old_dir = own_reference(config, folders.model_dir, groups_dir, output_dir, progress, cache, of=OLD)
    base_dir, base_mismatch = folders.base_dir, None
    if base_dir is not None and finished is None:
        if base_dir == folders.old_dir and old_dir is not None:
            # One model's values, which fit for both or for neither.
            base_dir = old_dir
        elif (base_mismatch := _noted_or_elsewhere(config, base_dir, output_dir, BASE)) is not None:
            base_dir = own_reference(config, folders.compared_model_dir, groups_dir, output_dir, progress, cache, of=BASE)
    return Prepared(groups, rows, reference_dir, mismatch, old_dir, old_mismatch, base_dir, base_mismatch, finished)


def _noted_or_elsewhere(config: TrainConfig, cached_dir: Path, output_dir: Path, of: str) -> Mismatch | None:
    """Why training has to compute itself the values `of` a model whose folder it has: an earlier try noted it, or another kind of device
    made the cache; None where it takes the cached ones.
    """
    noted, elsewhere = noted_mismatch(output_dir, of), made_elsewhere(cached_dir, config.attention)
    if noted is not None or elsewhere is None:
        return noted
    mismatch = Mismatch(elsewhere=elsewhere)
    note_mismatch(output_dir, mismatch, of)
    return mismatch


def _mismatch(
    config: TrainConfig, reference_dir: Path, reference_model_dir: Path, output_dir: Path, *, step0_check: bool
) -> Mismatch | None:
    """Why training has to compute the reference itself; None where it takes the cached one.

    An earlier try may have noted a mismatch, or the cache may come from another kind of device or other kernels of attention.
    """
    noted = noted_mismatch(output_dir)
    if noted is not None:
        return noted if step0_check or noted.elsewhere else None
    elsewhere = made_elsewhere(reference_dir, config.attention)
    if elsewhere is None:
        return None
    if not is_from(reference_dir, reference_model_dir):
        raise ValueError(
            f"reference_dir must be of this kind of device, got {reference_dir} with {elsewhere}, and of other weights than "
            f"{reference_model_dir}, from which it can't be computed again; name the reference's model, or cache it here"
        )
    mismatch = Mismatch(elsewhere=elsewhere)
    note_mismatch(output_dir, mismatch)
    return mismatch


def _check_compared_model(reference_dir: Path, model_dir: Path) -> None:
    """The policy's samples are compared with the model whose values are cached, and no other."""
    if not is_from(reference_dir, model_dir):
        raise ValueError(
            f"reference_model_dir must be the model that {reference_dir} was made from, got {model_dir} with other weights or files; "
            "name the reference's folder"
        )


def _claim(output_dir: Path, config: TrainConfig, model_dir: Path, groups_dir: Path) -> None:
    """Notes what is trained in this folder, so that nothing else is resumed there."""
    uncounted = () if attention_counts(config.attention) else ("attention",)
    identity: dict[str, object] = {
        "config": {name: value for name, value in config.identity().items() if name not in uncounted},
        "model": model_digest(model_dir),
    }
    for name, path in (("groups", groups_dir / GROUPS_FILE), ("dev groups", groups_dir / DEV / GROUPS_FILE)):
        if path.is_file():
            with path.open("rb") as file:
                identity[name] = file_digest(file, "sha256").hexdigest()
    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / _IDENTITY_FILE
    found = read_note(path)
    if found is None and path.exists() and (output_dir / CHECKPOINTS).is_dir():
        raise ValueError(
            f"output_dir must say in {_IDENTITY_FILE} which training its checkpoints are of, got {path}, which holds no JSON object; "
            f"restore the file, or delete {output_dir} to begin anew"
        )
    if found is not None:
        different = [name for name in identity | found if found.get(name) != identity.get(name)]
        if different:
            raise ValueError(
                f"output_dir must be new or hold the same training, got {output_dir} with another {' and '.join(different)}; "
                "choose another folder or delete this one"
            )
        return
    write_json(path, identity, indent=1, durable=True)
