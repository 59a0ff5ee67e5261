"""Several samples of each item: what they say of a model, and how sure that is.

An item's samples are not independent of one another: they share its difficulty. So the item is the unit. Each has one value, such as the
share of its samples that are right, and the mean, its standard error and the paired difference are over items: that is the clustered
interval, with a cluster for each item, or for the items that ask the same question (Miller 2024 on clustered errors, resampling and paired
differences: https://arxiv.org/abs/2411.00640). Sampling more often makes the items' values less noisy, and never counts as more items.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import groupby

from evaluation.records import Record
from evaluation.statistics import Z_95, Interval, standard_error, tango_interval, unanimous_interval, wilson_interval

# An item's samples in scores.jsonl have its `id` and a `sample`, from 0.
SAMPLE = "sample"
# In points. Shares such as 1/3 and 2/3 leave this between equal differences.
_ROUNDING = 1e-9
# Of what is known before any item: that values are right or wrong. With less, a few samples that differ would say that nearly all items are
# alike, and nothing speaks against rare items of another kind.
_WEIGHT = 3


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """The chance that of k of the samples, drawn without replacement, one is right: 1 − C(n−c, k)/C(n, k) (arXiv 2107.03374).

    It never falls as k grows: both numbers are exact, and their quotient is rounded once.
    """
    return 1 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def numbers_of_samples(num_samples: int) -> list[int]:
    """The k of pass@k that are shown: the powers of two below the number of samples, and that number."""
    return [*(2**power for power in range((num_samples - 1).bit_length())), num_samples]


def votes(answers: Sequence[str | None], are_right: Sequence[bool], same: Callable[[str, str], bool]) -> list[int]:
    """Of each of an item's samples how many samples have its answer, itself among them; 0 of one without an answer.

    Right answers are one answer, the gold one. Others are the same where `same` holds of them, or of a chain of them.
    """
    # In one order, so that the order of the samples decides nothing.
    wrong = sorted({answer for answer, right in zip(answers, are_right, strict=True) if answer is not None and not right})
    group = {answer: number for number, answer in enumerate(wrong)}
    for place, one in enumerate(wrong):
        for other in wrong[place + 1 :]:
            if group[one] != group[other] and same(one, other):
                joined, into = group[other], group[one]
                group = {answer: into if number == joined else number for answer, number in group.items()}
    names = [
        None if answer is None else -1 if right else group[answer] for answer, right in zip(answers, are_right, strict=True)
    ]
    counts = Counter(name for name in names if name is not None)
    return [0 if name is None else counts[name] for name in names]


def majority(samples: Sequence[Record]) -> float:
    """Whether the answer that most of an item's samples have is right; of several such answers the share of right ones, which is what
    picking one by chance gives. 0 where no sample has an answer. Each sample has its `votes` and `outcome`."""
    most = max((sample["votes"] for sample in samples), default=0)
    if not most:
        return 0.0
    first = [sample for sample in samples if sample["votes"] == most]
    return most * any(sample["outcome"] == "correct" for sample in first) / len(first)


def num_right(samples: Sequence[Record]) -> int:
    return sum(sample["outcome"] == "correct" for sample in samples)


def merged(samples: Sequence[Record]) -> Record:
    """An item's samples as one record: what they share, `share`, the share of them that are right, and the `samples` themselves.

    The item is right where more than half of them are. Otherwise its outcome is the one that most of the others have.
    """
    samples = sorted(samples, key=lambda sample: int(sample[SAMPLE]))
    right = num_right(samples)
    others = Counter(sample["outcome"] for sample in samples if sample["outcome"] != "correct")
    outcome = "correct" if 2 * right > len(samples) else max(others, key=lambda name: (others[name], name))
    lengths = [sample["num_completion_tokens"] for sample in samples]
    known = [length for length in lengths if length is not None]
    shared = {key: value for key, value in samples[0].items() if key not in (SAMPLE, "answer", "rule", "votes")}
    return {
        **shared,
        "outcome": outcome,
        "num_completion_tokens": sum(known) / len(known) if known else None,
        "share": right / len(samples),
        "samples": samples,
    }


def values_at(items: Mapping[str, Record], num_samples: int) -> dict[str, dict[str, float]]:
    """Each item's pass@k by k, as `pass@4`, and its `maj@n`, of records that `merged` gives. A sample that isn't there is wrong."""
    found: dict[str, dict[str, float]] = {}
    for k in numbers_of_samples(num_samples):
        found[f"pass@{k}"] = {id: pass_at_k(num_samples, num_right(item["samples"]), k) for id, item in items.items()}
    if all("votes" in sample for item in items.values() for sample in item["samples"]):
        found[f"maj@{num_samples}"] = {id: majority(item["samples"]) for id, item in items.items()}
    return found


def error_of_mean(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """The standard error of a mean over items, clustered, in points; 0 where it is undefined, or nothing but rounding."""
    error = standard_error(values, clusters)
    return error if error > _ROUNDING else 0.0


def interval_around(values: Sequence[float], clusters: Sequence[Hashable]) -> Interval | None:
    """The 95 % interval of the mean of paired differences of shares over items, in points; None of a single cluster."""
    return _interval(values, clusters, -1.0) if len(set(clusters)) > 1 else None


def _interval(values: Sequence[float], clusters: Sequence[Hashable], lowest: float) -> Interval:
    """Student's interval of a mean of values from `lowest` to 1, in percent, cut at these; where all are equal `unanimous_interval`.

    There is one degree of freedom less than clusters: AIME's 30 items are too few for the normal quantile. Where most items have one value,
    the few others say too little of the spread, and the interval is as long as `_score_interval` too.
    """
    from scipy.stats import t

    mean, error, number = math.fsum(values) / len(values), error_of_mean(values, clusters), len(set(clusters))
    if not error:
        low, high = unanimous_interval(mean, number, lowest, 1.0)
        return 100 * low, 100 * high
    half = float(t.isf(0.025, number - 1)) * error
    low, high = max(100 * lowest, 100 * mean - half), min(100.0, 100 * mean + half)
    num_others = len(values) - max(Counter(round(value, 9) for value in values).values())
    if number > 1 and 0 < num_others < len(values) / 2:
        wide = _score_interval(values, clusters, num_others, lowest)
        low, high = min(low, wide[0]), max(high, wide[1])
    return low, high


def _score_interval(values: Sequence[float], clusters: Sequence[Hashable], num_others: int, lowest: float) -> Interval:
    """Wilson's interval of shares, or Tango's of their differences, as of a number of items that gives the variance seen.

    Shares vary less than right and wrong of the same mean: by a factor, below 1 unless items of a cluster go together. It is estimated with
    the number of items unlike the others as its weight, and averaged with that of values that are all right or wrong, with a weight of 3:
    simulated intervals then hold 95 % or more (`python -m tests.performance.sample_coverage`).
    """
    n, mean = len(values), math.fsum(values) / len(values)
    gained, lost = (math.fsum(max(0.0, sign * value) for value in values) for sign in (1, -1))
    alone = (mean if lowest == 0 else (gained + lost) / n) - mean * mean
    sizes = Counter(clusters).values()
    together = sum(size * size for size in sizes) / n
    estimated = (error_of_mean(values, clusters) / 100) ** 2 * n / alone * (1 - 1 / len(sizes))
    factor = (num_others * estimated + _WEIGHT * together) / (num_others + _WEIGHT)
    if lowest == 0:
        return wilson_interval(mean * n / factor, n / factor)
    return tango_interval(gained, lost, n, z=Z_95 * math.sqrt(factor))


def p_of_mean(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """The two-sided p of the mean of differences over items being 0, by Student's distribution. Where all are equal it is the sign test's:
    1 where they are 0, and else the chance that all clusters go the same way.
    """
    from scipy.stats import t

    error, number = error_of_mean(values, clusters), len(set(clusters))
    mean = 100 * math.fsum(values) / len(values)
    if error:
        return float(2 * t.sf(abs(mean) / error, number - 1))
    return 2.0 ** (1 - number) if abs(mean) > _ROUNDING else 1.0


def mean_interval(values: Sequence[float], clusters: Sequence[Hashable]) -> Interval:
    """The 95 % interval of a mean of shares over items, in percent and cut at 0 and 100; of equal values as `unanimous_interval` has it."""
    return _interval(values, clusters, 0.0)


def by_item(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The samples of each item, in the items' order."""
    found: dict[str, list[Record]] = {}
    for id, samples in groupby(records, key=lambda record: str(record["id"])):
        found.setdefault(id, []).extend(samples)
    return found
