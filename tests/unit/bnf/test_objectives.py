"""Every objective against numbers worked out by hand from its formula, with the derivatives that follow.

The pair: chosen with log-probabilities (−1, −2) against a reference of (−1.5, −2), rejected (−3) against (−2).
So S = (−3, −3), A = (−1.5, −3), log-ratios (0.5, −1), Δ = 1.5, Δ_A = 0.25 + 1 = 1.25.
"""

import math
from typing import Any

import pytest

from bnf.data.groups import Completion, PromptGroup
from bnf.objectives import OBJECTIVES, RowLogps, load_objective
from bnf.plugins import names
from bnf.training.losses import Totals, total_loss
from tests.unit.bnf.helpers import row_of

LOGPS = [[-1.0, -2.0], [-3.0]]
REFERENCE = [[-1.5, -2.0], [-2.0]]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def log_odds(logp: float) -> float:
    return logp - math.log1p(-math.exp(logp))


def pair() -> RowLogps:
    """Its prompt has the log-probabilities (−0.5, −4) after the first token; mismatched completions have a mean log-ratio of
    0.25.
    """
    return row_of(
        LOGPS,
        [1, -1],
        reference=REFERENCE,
        pairs=[(0, 1)],
        scores=[1.0, 0.0],
        prompts=[[-0.5, -4.0]],
        kl_pair_logratio=0.25,
    )


# d(log odds)/d(log p) = 1/(1 − p), p = e^A.
ODDS_SLOPES = (1 / (1 - math.exp(-1.5)), 1 / (1 - math.exp(-3.0)))
ORPO_LOGIT = log_odds(-1.5) - log_odds(-3.0)
ORPO_PULL = 0.1 * sigmoid(-ORPO_LOGIT)
BNF_WEIGHT = math.exp(log_odds(-3.0) - log_odds(-2.0))

# The advantage of the scores (1, 0) in their group, ±0.5/σ.
NORMALIZED = 0.5 / (math.sqrt(0.5) + 1e-4)

# Objective, options, loss, and its derivative with respect to (each chosen token's, the rejected token's) log-probability; with three
# numbers the chosen tokens' differ.
BY_HAND: list[tuple[str, dict[str, Any], float, tuple[float, ...]]] = [
    ("sft", {}, 1.5, (-0.5, 0.0)),
    ("nll_signed", {}, (1.5 - 3.0) / 2, (-0.25, 0.5)),
    # Chosen tokens at or above their reference weigh 1, the rejected one below it the ratio of its odds.
    ("bnf", {}, (1.5 - 3.0 * BNF_WEIGHT) / 2, (-0.25, 0.5 * BNF_WEIGHT)),
    ("dpo", {"beta": 0.5}, softplus(-0.75), (-0.5 * sigmoid(-0.75), 0.5 * sigmoid(-0.75))),
    (
        "cdpo",
        {"beta": 0.5, "label_smoothing": 0.2},
        0.8 * softplus(-0.75) + 0.2 * softplus(0.75),
        (-0.4 * sigmoid(-0.75) + 0.1 * sigmoid(0.75), 0.4 * sigmoid(-0.75) - 0.1 * sigmoid(0.75)),
    ),
    ("ipo", {"tau": 0.5}, 0.25**2, (2 * 0.25 / 2, -2 * 0.25)),
    ("ipo", {"tau": 0.5, "form": "sum"}, 0.5**2, (1.0, -1.0)),
    ("simpo", {}, softplus(-2.0), (-sigmoid(-2.0), 2 * sigmoid(-2.0))),
    ("simpo", {"beta": 2.5, "gamma": 0.75}, softplus(-3.0), (-1.25 * sigmoid(-3.0), 2.5 * sigmoid(-3.0))),
    ("simpo", {"beta": 2.5, "gamma_beta_ratio": 0.3}, softplus(-3.0), (-1.25 * sigmoid(-3.0), 2.5 * sigmoid(-3.0))),
    (
        "orpo",
        {},
        1.5 + 0.1 * softplus(-ORPO_LOGIT),
        (-0.5 - ORPO_PULL * ODDS_SLOPES[0] / 2, ORPO_PULL * ODDS_SLOPES[1]),
    ),
    (
        "orpo",
        {"odds_weight": 0.0, "nll_scope": "all"},
        (1.0 + 2.0 + 0.5 + 4.0) / 4,
        (-0.25, 0.0),
    ),
    # z = 0.25; log-ratios 0.5 and −1: σ(−0.5·0.25) and σ(−0.5·1.25), each over two completions.
    (
        "kto",
        {"beta": 0.5, "desirable_weight": 2.0, "undesirable_weight": 0.5},
        (2 * sigmoid(-0.125) + 0.5 * sigmoid(-0.625)) / 2,
        (-0.5 * sigmoid(-0.125) * sigmoid(0.125), 0.125 * sigmoid(-0.625) * sigmoid(0.625)),
    ),
    ("cpo", {"nll_weight": 0.5}, math.log(2) + 0.5 * 1.5, (-0.05 - 0.25, 0.05)),
    ("slic_hf", {}, 1.0 + 0.3, (-1.1, 1.0)),
    ("slic_hf", {"delta": 2.0, "sft_weight": 1.0}, 2.0 + 3.0, (-2.0, 1.0)),
    ("r_dpo", {"beta": 0.5, "alpha": 0.25}, softplus(-1.0), (-0.5 * sigmoid(-1.0), 0.5 * sigmoid(-1.0))),
    ("dpop", {"beta": 0.5, "penalty_weight": 5}, softplus(-0.75), (-0.5 * sigmoid(-0.75), 0.5 * sigmoid(-0.75))),
    ("dpo_nll", {"beta": 0.5}, softplus(-0.75) + 1.5, (-0.5 * sigmoid(-0.75) - 0.5, 0.5 * sigmoid(-0.75))),
    ("rrhf", {}, 3.0, (-1.0, 0.0)),
    ("rwr", {"temperature": 0.5}, (math.exp(2) * 1.5 + 3.0) / 2, (-math.exp(2) / 4, -0.5)),
    ("rwr", {"temperature": 0.1}, (20 * 1.5 + 3.0) / 2, (-20 / 4, -0.5)),
    (
        "rwr",
        {"baseline": "prompt_mean"},
        (math.exp(0.5) * 1.5 + math.exp(-0.5) * 3.0) / 2,
        (-math.exp(0.5) / 4, -math.exp(-0.5) / 2),
    ),
    ("best_of_n", {}, 1.5, (-0.5, 0.0)),
    ("reinforce", {}, 0.0, (-0.5, 0.5)),
    ("reinforce", {"baseline": "prompt_mean"}, 0.0, (-0.25, 0.25)),
    ("reinforce", {"baseline": "none"}, 1.5, (-0.5, 0.0)),
    ("reinforce", {"negative_gradient": False}, 1.5, (-0.5, 0.0)),
    ("reinforce", {"kl_coef": 0.4, "kl_estimator": "k2"}, 0.4 * (0.25 + 1) / 4, (-0.4, -0.5, 0.3)),
    (
        "reinforce",
        {"kl_coef": 0.4},
        0.2 * (math.exp(-0.5) - 0.5 + math.e - 2),
        (-0.5 + 0.2 * (1 - math.exp(-0.5)), -0.5, 0.5 + 0.2 * (1 - math.e)),
    ),
    # Where the training starts from the reference, k1 is 0.
    ("reinforce", {"kl_coef": 0.4, "kl_estimator": "k1"}, 0.0, (-0.5, 0.5)),
    # Ratios e^0.5 and 1 with advantage 1, e^−1 with −1: the first is clipped to 1.2, the last to 0.8.
    ("ppo", {}, (-1.2 - 1 + 0.8) / 2, (0.0, -0.5, 0.0)),
    ("ppo", {"epsilon_high": 0.7}, (-math.exp(0.5) - 1 + 0.8) / 2, (-math.exp(0.5) / 2, -0.5, 0.0)),
    (
        "ppo",
        {"ratio": "sequence", "epsilon": 0.9},
        (-math.exp(0.5) + math.exp(-1)) / 2,
        (-math.exp(0.5) / 2, math.exp(-1) / 2),
    ),
    ("grpo", {}, NORMALIZED * (-1.1 + 0.8) / 2, (0.0, -NORMALIZED / 4, 0.0)),
    ("grpo", {"scale_rewards": "none"}, 0.5 * (-1.1 + 0.8) / 2, (0.0, -0.5 / 4, 0.0)),
    ("grpo", {"loss_aggregation": "token_mean"}, NORMALIZED * (-2.2 + 0.8) / 3, (0.0, -NORMALIZED / 3, 0.0)),
    (
        "grpo",
        {"loss_aggregation": "constant", "max_completion_length": 4},
        NORMALIZED * (-2.2 + 0.8) / 8,
        (0.0, -NORMALIZED / 8, 0.0),
    ),
    (
        "gspo",
        {"epsilon": 0.9, "epsilon_high": 0.9},
        NORMALIZED * (-math.exp(0.25) + math.exp(-1)) / 2,
        (-NORMALIZED * math.exp(0.25) / 4, NORMALIZED * math.exp(-1) / 2),
    ),
    ("gspo", {}, NORMALIZED * (-1.0004 + 0.9997) / 2, (0.0, 0.0)),
    ("topr", {}, (3 - 3 * math.exp(-1)) / 2, (-0.5, math.exp(-1) / 2)),
    ("topr", {"advantage": "prompt_mean"}, (3 - 3 * math.exp(-1)) / 4, (-0.25, math.exp(-1) / 4)),
]


@pytest.mark.parametrize(("name", "options", "value", "slopes"), BY_HAND, ids=[f"{case[0]}{case[1] or ''}" for case in BY_HAND])
def test_one_pair_by_hand(name: str, options: dict[str, Any], value: float, slopes: tuple[float, ...]) -> None:
    row = pair()
    objective = load_objective(name, options)
    group = PromptGroup("g", (1,), (Completion((1, 2), 1, 1.0), Completion((3,), -1, 0.0)), ((0, 1),))
    totals = Totals(objective.num_completions(group), objective.num_pairs(group))
    loss = total_loss(objective.losses(row), row, totals)
    loss.backward()
    assert loss.item() == pytest.approx(value)
    assert row.per_token_logps.grad is not None
    assert row.per_token_logps.grad.tolist() == pytest.approx(
        [slopes[0], *slopes[-2:]] if len(slopes) == 3 else [slopes[0], *slopes]
    )


def test_every_objective_has_numbers() -> None:
    # bnf_contrast is the sum of two of them, below.
    assert {name for name, *_ in BY_HAND} | {"bnf_contrast"} == set(names(OBJECTIVES))


def test_dpop_penalises_a_chosen_completion_below_its_reference() -> None:
    """S_w − S_w^ref = −0.2, S_l − S_l^ref = −1: the penalty of 5·0.2 eats all of Δ = 0.8 and more."""
    row = row_of([[-1.2], [-3.0]], [1, -1], reference=[[-1.0], [-2.0]], pairs=[(0, 1)])
    losses = load_objective("dpop", {"beta": 1.0, "penalty_weight": 5}).losses(row).pairs
    assert losses is not None
    assert losses.item() == pytest.approx(softplus(0.2))
    losses.sum().backward()
    assert row.per_token_logps.grad is not None
    assert row.per_token_logps.grad.tolist() == pytest.approx([-6 * sigmoid(0.2), sigmoid(0.2)])


def test_slic_hf_leaves_a_wide_margin_alone() -> None:
    losses = load_objective("slic_hf").losses(row_of([[-1.0], [-3.0]], [1, -1], pairs=[(0, 1)])).pairs
    assert losses is not None and losses.tolist() == pytest.approx([0.1])


def test_bnf_contrast_is_the_sum_of_the_two() -> None:
    row = pair()
    together = load_objective("bnf_contrast", {"contrast_weight": 0.3, "beta": 0.5}).losses(row)
    bnf, dpo = load_objective("bnf").losses(row), load_objective("dpo", {"beta": 0.5}).losses(row)
    assert (
        together.completions is not None
        and together.pairs is not None
        and bnf.completions is not None
        and dpo.pairs is not None
    )
    assert together.completions.tolist() == bnf.completions.tolist()
    assert together.pairs.tolist() == pytest.approx([0.3 * dpo.pairs.item()])


def test_orpos_likelihood_may_include_the_prompt() -> None:
    """Of two groups with prompts of two and no predicted tokens: each pair's mean is over its own prompt and completion."""
    row = row_of(
        [[-1.0], [-2.0], [-3.0, -5.0], [-1.0]],
        [1, -1, 1, -1],
        pairs=[(0, 1), (2, 3)],
        groups=[0, 0, 1, 1],
        prompts=[[-2.0, -6.0], []],
    )
    objective = load_objective("orpo", {"odds_weight": 0.0, "nll_scope": "all"})
    assert objective.needs_prompts and not load_objective("orpo").needs_prompts
    losses = objective.losses(row).pairs
    assert losses is not None and losses.tolist() == pytest.approx([3.0, 4.0])
    losses.sum().backward()
    assert row.prompt_logps is not None and row.prompt_logps.grad is not None and row.per_token_logps.grad is not None
    assert row.prompt_logps.grad.tolist() == pytest.approx([-1 / 3, -1 / 2])
    assert row.per_token_logps.grad.tolist() == pytest.approx([-1 / 3, 0.0, -1 / 2, -1 / 2, 0.0])


def test_ktos_reference_point_is_not_below_zero() -> None:
    """A mean mismatched log-ratio of −3 counts as 0; each completion is on its own, whatever its partner's label."""
    for z in (-3.0, 0.0):
        row = row_of([[-1.0], [-2.0]], [1, 1], reference=[[-2.0], [-1.0]], kl_pair_logratio=z)
        losses = load_objective("kto", {"beta": 2.0}).losses(row).completions
        assert losses is not None and losses.tolist() == pytest.approx([sigmoid(-2.0), sigmoid(2.0)])


def test_without_negative_gradient_dispreferred_completions_are_left_alone() -> None:
    """`label_weighting: {preferred: 1, dispreferred: 0}`, and twice the weight is twice the gradient."""
    weighted = [name for name in names(OBJECTIVES) if "label_weighting" in load_objective(name).reads]
    assert weighted == ["bnf", "bnf_contrast", "kto", "nll_signed"]
    for name in weighted:
        options = {"contrast_weight": 0.0} if name == "bnf_contrast" else {}
        gradients = []
        for weights in ((1.0, 0.0), (2.0, 0.0), (1.0, 1.0)):
            row = pair()
            total_loss(load_objective(name, options).losses(row), row, Totals(2, 1), weights).backward()
            assert row.per_token_logps.grad is not None
            gradients.append(row.per_token_logps.grad.tolist())
        positive, double, both = gradients
        assert positive[2] == double[2] == 0 != both[2]
        assert positive[:2] == both[:2] and double[:2] == pytest.approx([2 * value for value in positive[:2]])


def test_rrhf_ranks_all_completions_of_a_prompt() -> None:
    """Scores (0, 2, 1) with A = (−1, −2, −4): hinges 1 (2 below 0), 3 (third below first); the second is the best. A tie says
    nothing.
    """
    row = row_of([[-1.0], [-2.0], [-4.0], [-1.0], [-5.0]], [1, 1, 1, 1, 1], scores=[0, 2, 1, 3, 3], groups=[0, 0, 0, 1, 1])
    objective = load_objective("rrhf", {"sft_weight": 0.5})
    losses = objective.losses(row).pairs
    assert losses is not None
    assert losses.tolist() == pytest.approx([1 + 3 + 0.5 * 2])
    tie = PromptGroup("t", (1,), (Completion((1,), 1, 3.0), Completion((2,), 1, 3.0)))
    ranked = PromptGroup("r", (1,), (Completion((1,), 1, 3.0), Completion((2,), 1, 1.0)))
    assert (objective.num_pairs(tie), objective.num_pairs(ranked)) == (0, 1)


def test_rrhf_takes_labels_where_a_score_is_missing() -> None:
    row = row_of([[-3.0], [-1.0]], [1, -1], scores=[float("nan"), 9.0])
    losses = load_objective("rrhf", {"sft_weight": 0.0}).losses(row).pairs
    assert losses is not None and losses.tolist() == pytest.approx([2.0])


def test_best_of_n_takes_the_first_of_equals_among_the_first_n() -> None:
    row = row_of([[-1.0], [-2.0], [-4.0], [-8.0]] * 2, [1] * 8, scores=[0, 5, 5, 9, 1, 0, 0, 0], groups=[0] * 4 + [1] * 4)
    losses = load_objective("best_of_n", {"n": 3, "m": 1}).losses(row).completions
    assert losses is not None and losses.tolist() == [0, 2, 0, 0, 1, 0, 0, 0]
    losses = load_objective("best_of_n", {"n": 4, "m": 2}).losses(row).completions
    assert losses is not None and losses.tolist() == [0, 2, 0, 8, 1, 2, 0, 0]


def test_length_normalisation_by_the_shorter_of_a_pair() -> None:
    """The author's implementation divides both of a pair by the shorter one's length: here 1 instead of 2 for the chosen."""
    from dataclasses import replace

    row = pair()
    shorter = replace(row, normalizers=row.lengths.new_ones(2))
    for name in ("bnf", "nll_signed"):
        own, ours = (load_objective(name).losses(each).completions for each in (row, shorter))
        assert own is not None and ours is not None
        assert ours.tolist() == pytest.approx([2 * own[0].item(), own[1].item()])


@pytest.mark.parametrize("name", names(OBJECTIVES))
def test_losses_stay_finite_at_extremes(name: str) -> None:
    for chosen, rejected in ((-1e-12, -4000.0), (-4000.0, -1e-12), (-1e-300, -1e-300)):
        row = row_of(
            [[chosen], [rejected]],
            [1, -1],
            reference=[[-1.0], [-1.0]],
            pairs=[(0, 1)],
            scores=[1, 0],
            kl_pair_logratio=1000.0,
        )
        loss = total_loss(load_objective(name).losses(row), row, Totals(2, 1))
        loss.backward()
        assert loss.isfinite() and row.per_token_logps.grad is not None and row.per_token_logps.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cdpo", {"label_smoothing": 0.5}, r"label_smoothing must lie in \[0, 0.5\), got 0.5"),
        ("simpo", {"gamma": 1.0, "gamma_beta_ratio": 0.5}, "gamma must be left out beside gamma_beta_ratio, got 1.0"),
        ("orpo", {"nll_scope": "prompt"}, "nll_scope must be completion or all, got 'prompt'"),
        ("kto", {"undesirable_weight": -1}, "undesirable_weight must be a number of at least 0, got -1"),
        ("ipo", {"form": "median"}, "form must be mean or sum, got 'median'"),
        ("best_of_n", {"n": 2, "m": 3}, r"m must be a whole number from 1 to n \(2\), got 3"),
        ("rwr", {"baseline": "mean"}, "baseline must be zero or prompt_mean, got 'mean'"),
        ("dpop", {"penalty_weight": -1}, "penalty_weight must be a number of at least 0, got -1"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_objective(name, options)


def test_options_are_a_mapping() -> None:
    with pytest.raises(
        ValueError, match=r"objective_options must be a mapping of options to values, got \['beta'\]; write \{\} for"
    ):
        load_objective("dpo", ["beta"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class Objective:\n    pass\n", "got one that isn't based on it"),
        ("class Objective(BaseObjective):\n    def losses(self, row): ...\n", r"got a class without @dataclass\(frozen=True\)"),
        ("@dataclass(frozen=True)\nclass Objective(BaseObjective):\n    beta: float = 1.0\n", r"got one without losses\(\)"),
    ],
)
def test_a_file_with_no_whole_objective_is_refused_by_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    written: dict[str, Any] = {"__name__": "written"}
    exec("from dataclasses import dataclass\nfrom bnf.objectives._base import BaseObjective\n" + source, written)
    monkeypatch.setattr("bnf.objectives.sft.Objective", written["Objective"])
    with pytest.raises(TypeError, match="Objective of bnf/objectives/sft.py must be a dataclass on BaseObjective, " + message):
        load_objective("sft")
