"""What is logged of a step, by hand and against the slow way."""

import math
from pathlib import Path

import pytest
import torch

from bnf.model.logps import TokenLogps, entropies_of
from bnf.objectives import RowLogps, load_objective
from bnf.training.identity import IdentityCheck
from bnf.training.metrics import SampleMetrics, StepMetrics, area_under_curve
from tests.unit.bnf.helpers import row_of
from tests.unit.bnf.training import metrics, run, same, weights

HALF, QUARTER, THREE = math.log(0.5), math.log(0.25), math.log(0.75)


def logged(name: str, *rows: RowLogps, entropies: bool = True) -> dict[str, float]:
    """Metrics of rows whose rest is uniform over 4 tokens at every position."""
    step = StepMetrics()
    for row in rows:
        rest = torch.full_like(row.per_token_logps, math.log(4)) if entropies else None
        own = entropies_of(row.per_token_logps, row.per_token_log_odds, rest) if rest is not None else None
        policy = TokenLogps(row.per_token_logps, row.per_token_log_odds, rest, entropies=own)
        step.add_row(load_objective(name), row, policy, 10)
    assert step.num_tokens == 10 * len(rows)
    return step.pop()


def test_a_pair_by_hand() -> None:
    """Preferred with p = (½, ¼) against r = (½, ½), dispreferred with p = ¾ against r = ¼."""
    row = row_of([[HALF, QUARTER], [THREE]], [1, -1], reference=[[HALF, HALF], [QUARTER]], pairs=[(0, 1)])
    found = logged("bnf", row)
    assert found["logps/chosen"] == pytest.approx((HALF + QUARTER) / 2)
    assert found["logps_sum/chosen"] == pytest.approx(HALF + QUARTER)
    assert found["rewards/chosen"] == pytest.approx(-math.log(2))
    assert found["rewards/rejected"] == pytest.approx(math.log(3))
    assert found["rewards/margins"] == pytest.approx(-math.log(6)) and found["rewards/accuracies"] == 0
    # w = (1, ⅓) and 1.
    assert found["weights/chosen"] == pytest.approx(2 / 3) and found["weights_below_1/chosen"] == 0.5
    assert found["weights/rejected"] == 1 and found["weights_below_1/rejected"] == 0
    # Each of the 4 other tokens has (1 − p)/4, so −Σ_v f(v)·log π(v) is −f·log p − (1 − f)·log((1 − p)/4), with f = (1, ½) and 1.
    positions = (-HALF, -QUARTER / 2 - math.log(0.75 / 4) / 2, -THREE)
    assert found["dtd_loss"] == pytest.approx(((positions[0] + positions[1]) / 2 - positions[2]) / 2)
    entropies = [-p * math.log(p) - (1 - p) * math.log((1 - p) / 4) for p in (0.5, 0.25, 0.75)]
    assert found["entropy"] == pytest.approx(sum(entropies) / 3)
    assert "mismatched_logratio" not in found


def test_rows_are_averaged_by_what_they_hold() -> None:
    first = row_of([[HALF], [HALF], [THREE]], [1, 1, -1], reference=[[HALF], [HALF], [THREE]], kl_pair_logratio=0.7)
    second = row_of([[QUARTER]], [1], reference=[[HALF]], kl_pair_logratio=0.7)
    found = logged("kto", first, second, entropies=False)
    assert found["logps/chosen"] == pytest.approx((2 * HALF + QUARTER) / 3)
    assert found["logps/rejected"] == pytest.approx(THREE)
    assert found["mismatched_logratio"] == pytest.approx(0.7)
    assert "dtd_loss" not in found and "entropy" not in found


def test_without_pairs_accuracy_is_the_area_under_the_curve_over_all_rows() -> None:
    """Rewards −ln 2 and 0 of preferred, 0 and −ln 3 of dispreferred: of four combinations 2 won, 1 tied, 1 lost."""
    first = row_of([[QUARTER], [HALF]], [1, -1], reference=[[HALF], [HALF]])
    second = row_of([[HALF], [QUARTER]], [1, -1], reference=[[HALF], [THREE]])
    found = logged("bnf", first, second)
    assert found["rewards/accuracies"] == pytest.approx(2.5 / 4)
    assert found["rewards/margins"] == pytest.approx((-math.log(2) + math.log(3)) / 2)


def test_area_under_curve_equals_all_combinations() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = (torch.randint(0, 9, (size,), generator=generator).double() for size in (57, 31))
    difference = chosen[:, None] - rejected[None, :]
    expected = float(((difference > 0).double() + (difference == 0).double() / 2).mean())
    assert area_under_curve(chosen, rejected) == pytest.approx(expected)
    assert area_under_curve(torch.tensor([1.0]), torch.tensor([0.0])) == 1 != area_under_curve(chosen, chosen) == 0.5


def test_one_label_alone_has_no_margin_and_nothing_added_logs_nothing() -> None:
    found = logged("nll_signed", row_of([[HALF]], [1]), entropies=False)
    assert set(found) == {"logps/chosen", "logps_sum/chosen", "rewards/chosen"}
    step = StepMetrics()
    assert step.pop() == {} and IdentityCheck(None, lora_dropout=0.0).mean_weight() is None


def test_a_value_that_is_not_finite_is_counted_where_it_belongs() -> None:
    row = row_of([[-math.inf], [HALF]], [1, -1])
    found = logged("sft", row, entropies=False)
    assert found["logps/chosen"] == -math.inf and found["logps/rejected"] == pytest.approx(HALF)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("bnf", {}, 0.5),
        ("nll_signed", {}, 0.5),
        ("dpo", {"beta": 0.2}, 0.1),
        ("dpop", {"beta": 0.2}, 0.1),
        ("kto", {"beta": 0.2}, 0.1),
        ("simpo", {"beta": 2.5}, 2.5 * -1.5),
        ("cpo", {"beta": 0.2}, 0.2 * -3),
        ("orpo", {"odds_weight": 0.2}, 0.2 * -1.5),
    ],
)
def test_implicit_rewards(name: str, options: dict[str, float], expected: float) -> None:
    """β-free log-ratios for BNF, β·(S − S^ref) for DPO's family, β·A for SimPO, β·S for CPO, λ·A for ORPO."""
    row = row_of([[-1.0, -2.0], [-3.0]], [1, -1], reference=[[-1.5, -2.0], [-2.0]], pairs=[(0, 1)])
    assert float(load_objective(name, options).rewards(row).detach()[0]) == pytest.approx(expected)


@pytest.mark.integration
def test_what_is_logged_decides_nothing(dev_workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the policy is the same to the bit, and the rules of a collapse see what they look at."""
    settings = {"dev_prompts": 4, "dev_max_new_tokens": 4}
    run(dev_workplace, tmp_path / "logged", **settings)
    monkeypatch.setattr(StepMetrics, "add_row", lambda self, *row: None)
    nothing = SampleMetrics(number=0, kl=0.0, kl_per_token=0.0, entropy=0.0, tokens=0.0, unterminated=0.0)
    monkeypatch.setattr("bnf.training.evaluating.sample_metrics", lambda *args, **kwargs: nothing)
    run(dev_workplace, tmp_path / "not_logged", **settings)
    assert same(weights(tmp_path / "logged"), weights(tmp_path / "not_logged"))
    logged, without = (metrics(tmp_path / name) for name in ("logged", "not_logged"))
    for name in ("eval_logps_shift/chosen", "eval_samples/number", "eval_samples/unterminated"):
        figures = [line[name] for line in logged if name in line]
        assert len(figures) > 1 and figures == [line[name] for line in without if name in line]
    assert "rewards/margins" in logged[1] and "rewards/margins" not in without[1]
