"""What training did to the likelihood of the data: every completion token under the policy against the same token under the
reference.

A collapse shows here first: likelihood that falls on preferred completions too, or a few tokens that fell by tens of nats.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bnf.analysis.pair_shifts import write_pair_shifts
from bnf.data.groups import DEV, read_groups
from bnf.data.packing import Row, pack
from bnf.files import write_json
from bnf.model.loading import Weights
from bnf.model_folders import open_tokenizer
from bnf.parallel.placement import Placement
from bnf.progress import Progress
from bnf.reference.cache import read_reference
from bnf.reference.launch import ReferenceCall
from bnf.reference.values import RowReference

SHIFTS_FILE = "shifts.json"

_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
# Nats; outer bins are open.
_EDGES = (-10.0, -5.0, -3.0, -2.0, -1.0, -0.5, -0.2, -0.1, 0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
_NUM_LARGEST = 20
_HERE = Placement()
_CONTEXT_TOKENS = 8


@dataclass(frozen=True)
class ByModel:
    """A mean log-probability under both models, in nats."""

    reference: float
    policy: float


@dataclass(frozen=True)
class Histogram:
    """How many tokens shifted by how many nats: `counts` has one more than `edges`, its first and last are open."""

    edges: Sequence[float]
    counts: Sequence[int]


@dataclass(frozen=True)
class MovedToken:
    """A token that moved far: where it stands, the text before it, and its log-probabilities."""

    group: str
    completion: int
    position: int
    context: str
    token: str
    reference_logp: float
    policy_logp: float


@dataclass(frozen=True)
class LabelShift:
    """The shift of all completions of one label, which has some.

    `logps_per_token` and `logps_sum` are means over completions, of their mean and of their summed log-probability. Shifts are of
    log-probabilities per token, in nats; those of log-odds say how far the token's logit moved against all others.
    """

    completions: int
    tokens: int
    logps_per_token: ByModel
    logps_sum: ByModel
    shift_quantiles: dict[str, float]
    log_odds_shift_quantiles: dict[str, float]
    share_of_tokens_down: float
    shift_histogram: Histogram
    policy_entropy: float
    largest_rises: Sequence[MovedToken]
    largest_falls: Sequence[MovedToken]


@dataclass(frozen=True)
class LikelihoodShift:
    """The shift by label, None for a label without completions; and that of the dev groups, where the data set has some."""

    groups: int
    preferred: LabelShift | None
    dispreferred: LabelShift | None
    dev: "LikelihoodShift | None" = None

    def to_json(self) -> dict[str, object]:
        """The fields as shifts.json holds them."""
        labels = {"preferred": self.preferred, "dispreferred": self.dispreferred}
        return {
            "groups": self.groups,
            **{name: {"completions": 0, "tokens": 0} if one is None else asdict(one) for name, one in labels.items()},
            **({} if self.dev is None else {DEV: self.dev.to_json()}),
        }


def likelihood_shift(
    policy_dir: Path,
    groups_dir: Path,
    reference_dir: Path,
    output_dir: Path,
    *,
    max_tokens_per_row: int,
    bf16: bool,
    progress: Progress,
    max_groups_per_row: int | None = None,
    share_prompts: bool = True,
    weights: Weights = "fp32",
    load_in_4bit: bool = False,
    attention: str = "auto",
    placement: Placement = _HERE,
) -> LikelihoodShift:
    """Scores all groups under the policy and compares the scores with those cached in `reference_dir`: the reference's, or the base model's
    where the recipe names another reference. Scores of an earlier call are used again. Returns what it writes to shifts.json; what became
    of each pair is in pair_shifts.jsonl. `load_in_4bit` says how the reference was computed; a policy folder holds whole weights.
    `placement` says in how many processes the policy scores, and how they hold it.

    Raises:
        ValueError: the reference was made for other groups or settings.
    """
    cache_dir = output_dir / "policy_logps"
    call = ReferenceCall(
        policy_dir,
        groups_dir,
        cache_dir,
        max_tokens_per_row=max_tokens_per_row,
        max_groups_per_row=max_groups_per_row,
        share_prompts=share_prompts,
        bf16=bf16,
        kl_pairs=False,
        placement=placement,
        weights=weights,
        # What the adapters were trained beside is already part of the policy's weights.
        load_in_4bit=False,
        attention=attention,
        entropies=True,
    )
    call.launch(progress)
    tokenizer = open_tokenizer(policy_dir)

    def compared(part: str, dev: LikelihoodShift | None = None) -> LikelihoodShift:
        groups = read_groups(groups_dir / part)
        rows = pack(groups, max_tokens_per_row, max_groups_per_row=max_groups_per_row, share_prompts=share_prompts)
        policies, references = (
            read_reference(
                folder / part,
                rows,
                max_tokens_per_row=max_tokens_per_row,
                bf16=bf16,
                weights=weights,
                load_in_4bit=in_4bit,
            )
            for folder, in_4bit in ((cache_dir, False), (reference_dir, load_in_4bit))
        )
        if not part:
            write_pair_shifts(output_dir, reference_dir, rows, policies, references)
        preferred, dispreferred = (_compare(rows, policies, references, sign, tokenizer) for sign in (1, -1))
        return LikelihoodShift(sum(len(row.groups) for row in rows), preferred, dispreferred, dev)

    shift = compared("", compared(DEV) if (groups_dir / DEV).is_dir() else None)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / SHIFTS_FILE, shift.to_json(), indent=1, ensure_ascii=False)
    return shift


def _compare(
    rows: Sequence[Row],
    policies: Sequence[RowReference],
    references: Sequence[RowReference],
    sign: int,
    tokenizer: PreTrainedTokenizerBase,
) -> LabelShift | None:
    """The shift of all completions of one label; None where there are none."""
    of_tokens = [row.labels[row.completion_of_token] == sign for row in rows]
    policy = torch.cat([values.logps[own] for values, own in zip(policies, of_tokens, strict=True)])
    if not len(policy):
        return None
    reference = torch.cat([values.logps[own] for values, own in zip(references, of_tokens, strict=True)])
    odds_shift = torch.cat(
        [(ours.log_odds - theirs.log_odds)[own] for ours, theirs, own in zip(policies, references, of_tokens, strict=True)]
    )
    entropies = [values.entropies[own] for values, own in zip(policies, of_tokens, strict=True) if values.entropies is not None]
    shift = policy - reference
    bins = torch.bucketize(shift, torch.tensor(_EDGES))

    def by_model(*, per_token: bool) -> ByModel:
        return ByModel(*(_mean_logp(rows, values, sign, per_token=per_token) for values in (references, policies)))

    def largest(*, descending: bool) -> list[MovedToken]:
        return _largest(rows, policies, references, of_tokens, shift, tokenizer, descending=descending)

    return LabelShift(
        completions=sum(int((row.labels == sign).sum()) for row in rows),
        tokens=len(policy),
        logps_per_token=by_model(per_token=True),
        logps_sum=by_model(per_token=False),
        shift_quantiles=_quantiles(shift),
        log_odds_shift_quantiles=_quantiles(odds_shift),
        share_of_tokens_down=float((shift < 0).double().mean()),
        shift_histogram=Histogram(list(_EDGES), bins.bincount(minlength=len(_EDGES) + 1).tolist()),
        policy_entropy=float(torch.cat(entropies).double().mean()),
        largest_rises=largest(descending=True),
        largest_falls=largest(descending=False),
    )


def _mean_logp(rows: Sequence[Row], values: Sequence[RowReference], sign: int, *, per_token: bool) -> float:
    """Mean over completions of their log-probability, per token or summed."""
    means = []
    for row, value in zip(rows, values, strict=True):
        sums = torch.zeros(len(row.lengths), dtype=torch.float64).index_add(0, row.completion_of_token, value.logps.double())
        means.append((sums / row.lengths if per_token else sums)[row.labels == sign])
    return float(torch.cat(means).mean())


def _quantiles(values: Tensor) -> dict[str, float]:
    ordered = values.double().sort().values
    places = [round(quantile * (len(ordered) - 1)) for quantile in _QUANTILES]
    return {f"{quantile:g}": float(ordered[place]) for quantile, place in zip(_QUANTILES, places, strict=True)}


def _largest(
    rows: Sequence[Row],
    policies: Sequence[RowReference],
    references: Sequence[RowReference],
    of_tokens: Sequence[Tensor],
    shift: Tensor,
    tokenizer: PreTrainedTokenizerBase,
    *,
    descending: bool,
) -> list[MovedToken]:
    """The tokens that moved most, with the text before them."""
    row_of = torch.cat([torch.full((int(own.sum()),), number) for number, own in enumerate(of_tokens)])
    place_of = torch.cat([own.nonzero()[:, 0] for own in of_tokens])
    order = shift.argsort(descending=descending, stable=True)[:_NUM_LARGEST].tolist()
    largest = []
    for index in order:
        number, place = int(row_of[index]), int(place_of[index])
        row = rows[number]
        completion = int(row.completion_of_token[place])
        position = place - int(row.lengths[:completion].sum())
        group_number = int(row.group_of_completion[completion])
        group = row.groups[group_number]
        within_group = completion - int((row.group_of_completion < group_number).sum())
        before = (*group.prompt_ids, *group.completions[within_group].token_ids[:position])[-_CONTEXT_TOKENS:]
        largest.append(
            MovedToken(
                group=group.id,
                completion=within_group,
                position=position,
                context=str(tokenizer.decode(list(before))),
                token=str(tokenizer.decode([int(row.targets[place])])),
                reference_logp=float(references[number].logps[place]),
                policy_logp=float(policies[number].logps[place]),
            )
        )
    return largest
