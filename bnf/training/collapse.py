"""When a training has collapsed: its loss is not finite, preferred completions became unlikely, or samples don't end.

These rules decide whether a training leaves a policy. `bnf.training.dev` computes what they look at. Torch is not imported here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bnf.training.config import TrainConfig
from bnf.training.remedies import remedies, remedies_for_overflow

# Nats per token that dev preferred completions may lie under the model that shifts are measured from, at all but one evaluation.
_MOST_NATS_DOWN = 1.0
_EVALUATIONS_DOWN = 2
# Share of samples without an end, absolutely and as a multiple of what the model had before training.
_MOST_UNTERMINATED = 0.10
_MOST_TIMES_UNTERMINATED = 3
# Of a few samples one or two more without an end are chance: 4 of 4 where none was before have 1 in 70.
_FEWEST_MORE_UNTERMINATED = 4

# What the rules look at, by its names in the log, where they follow `eval_`.
SHIFT = "logps_shift/chosen"
UNTERMINATED = "samples/unterminated"
NUM_SAMPLES = "samples/number"

# What messages call the model that shifts are measured from, unless it is another one.
REFERENCE = "the reference"


class TrainingCollapsed(ArithmeticError):
    """The training has collapsed, and going on would not mend it. The message names the figure, its limit, and what to try."""


@dataclass(frozen=True)
class _Evaluation:
    """What was logged of an evaluation: the step, the mean shift of dev preferred completions in nats per token, and the samples' number
    and share without an end.
    """

    step: int
    shift: float
    num_samples: float
    unterminated: float

    @classmethod
    def from_log(cls, entry: Mapping[str, float]) -> "_Evaluation":
        # Without a reference there is no shift, and without samples none is without an end.
        shift, number, unterminated = (entry.get(f"eval_{name}", 0.0) for name in (SHIFT, NUM_SAMPLES, UNTERMINATED))
        return cls(int(entry["step"]), shift, number, unterminated)


def non_finite(what: str, value: float, step: int, config: TrainConfig) -> TrainingCollapsed:
    """The error of a loss or gradient that is infinite or not a number."""
    return TrainingCollapsed(f"{what} must be finite, got {value} at step {step}; {remedies_for_overflow(config)}")


def check_evaluations(logged: Sequence[Mapping[str, float]], config: TrainConfig, *, compared_with: str = REFERENCE) -> None:
    """Looks at what was logged of the evaluations so far; the first of them is the one before the first step. `compared_with` is the model
    that shifts are measured from, in words.

    Raises:
        TrainingCollapsed: the latest shows a collapse.
    """
    evaluations = [_Evaluation.from_log(entry) for entry in logged]
    first, latest = evaluations[0], evaluations[-1]
    down = [each for each in evaluations if each.shift < -_MOST_NATS_DOWN]
    if len(down) >= _EVALUATIONS_DOWN and down[-1] is latest:
        raise TrainingCollapsed(
            f"dev preferred completions must stay within {_MOST_NATS_DOWN:g} nat per token of {compared_with}, got "
            f"{latest.shift:.2f} at step {latest.step} and {down[-2].shift:.2f} at step {down[-2].step}: the training destroys what it "
            f"should keep; {remedies(config)}"
        )
    share, before = latest.unterminated, first.unterminated
    more = round((share - before) * latest.num_samples)
    if share > _MOST_UNTERMINATED and share > _MOST_TIMES_UNTERMINATED * before and more >= _FEWEST_MORE_UNTERMINATED:
        raise TrainingCollapsed(
            f"samples without an end within {config.dev_max_new_tokens} tokens must stay under {_MOST_UNTERMINATED:.0%} or "
            f"{_MOST_TIMES_UNTERMINATED} times the {before:.1%} before training, got {share:.1%} at step {latest.step}; check that "
            f"preferred completions are whole and hold their end-of-turn token (groups.jsonl), or {remedies(config)}"
        )
