"""Pairwise objectives against TRL 1.16's own functions, value and gradient, in float64 unless TRL computes in float32."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bnf.objectives import load_objective
from bnf.objectives._base import RowLogps
from tests.unit.bnf.helpers import row_of

pytestmark = pytest.mark.integration

NUM_PAIRS = 5


def random_row(seed: int) -> tuple[RowLogps, list[int]]:
    """Five pairs, chosen and rejected in turn, of unequal lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 8, (2 * NUM_PAIRS,), generator=generator).tolist()

    def draw() -> list[list[float]]:
        return [(-torch.rand(length, generator=generator, dtype=torch.float64) * 4 - 0.01).tolist() for length in lengths]

    pairs = [(2 * index, 2 * index + 1) for index in range(NUM_PAIRS)]
    row = row_of(draw(), [1, -1] * NUM_PAIRS, reference=draw(), pairs=pairs, scores=[1, 0] * NUM_PAIRS)
    return row, lengths


def trl_dpo_loss(row: RowLogps, lengths: list[int], loss_types: list[str], weights: list[float], beta: float) -> Tensor:
    """TRL's DPOTrainer._compute_loss, given our log-probabilities instead of a model's."""
    from trl.trainer.dpo_trainer import DPOTrainer

    order = [*range(0, 2 * NUM_PAIRS, 2), *range(1, 2 * NUM_PAIRS, 2)]
    longest = max(lengths)
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    # One prompt token, then the completion, right-padded.
    mask = torch.zeros(len(order), longest + 1, dtype=torch.long)
    padded = []
    for place, index in enumerate(order):
        mask[place, 1 : 1 + lengths[index]] = 1
        own = row.per_token_logps[starts[index] : starts[index] + lengths[index]]
        padded.append(torch.nn.functional.pad(own, (0, longest - lengths[index])))
    log_probs = torch.stack(padded)
    references = row.reference_logps[torch.tensor(order)].chunk(2)

    class Model:
        training = True

        def __call__(self, **kwargs: Any) -> Any:
            zeros = torch.zeros_like(log_probs)
            return SimpleNamespace(log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())

    gathered = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda value: value, gather=lambda value: value)
    metrics: dict[str, Any] = {"train": defaultdict(list)}
    trainer: Any = SimpleNamespace(
        model=Model(), accelerator=gathered, aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=True, _metrics=metrics,
        f_divergence_type="reverse_kl", loss_types=loss_types, loss_weights=weights, beta=beta, use_weighting=False,
        label_smoothing=0.0, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    inputs = {
        "completion_mask": mask, "input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask),
        "ref_chosen_logps": references[0], "ref_rejected_logps": references[1],
    }  # fmt: skip
    loss = DPOTrainer._compute_loss(trainer, trainer.model, inputs, False)
    assert isinstance(loss, Tensor)
    return loss


def compare(row: RowLogps, ours: Tensor, theirs: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=tolerance, atol=tolerance)
    grads = [torch.autograd.grad(loss, row.per_token_logps, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(grads[0], grads[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_dpo(seed: int, beta: float) -> None:
    row, lengths = random_row(seed)
    losses = load_objective("dpo", {"beta": beta}).losses(row).pairs
    assert losses is not None
    compare(row, losses.mean(), trl_dpo_loss(row, lengths, ["sigmoid"], [1.0], beta))


@pytest.mark.parametrize("seed", [0, 1])
def test_ipo(seed: int) -> None:
    row, lengths = random_row(seed)
    losses = load_objective("ipo", {"tau": 0.4}).losses(row).pairs
    assert losses is not None
    compare(row, losses.mean(), trl_dpo_loss(row, lengths, ["ipo"], [1.0], 0.4))


def single_pair(row: RowLogps, lengths: list[int]) -> RowLogps:
    """The first pair alone: TRL's likelihood term is a mean over the micro-batch's tokens, so the two are compared at one
    pair.
    """
    num = lengths[0] + lengths[1]
    assert row.reference_per_token_logps is not None
    logps = row.per_token_logps[:num].detach().split(lengths[:2])
    reference = row.reference_per_token_logps[:num].split(lengths[:2])
    return row_of(
        [x.tolist() for x in logps], [1, -1], reference=[x.tolist() for x in reference], pairs=[(0, 1)], scores=[1, 0]
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_likelihood_terms_at_one_pair(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    row, lengths = random_row(seed)
    row, lengths = single_pair(row, lengths), lengths[:2]
    monkeypatch.setattr(f"{__name__}.NUM_PAIRS", 1)
    losses = load_objective("dpo_nll", {"beta": 0.3, "nll_weight": 0.7}).losses(row).pairs
    assert losses is not None
    compare(row, losses.mean(), trl_dpo_loss(row, lengths, ["sigmoid", "sft"], [1.0, 0.7], 0.3))
    supervised = load_objective("sft").losses(row).completions
    assert supervised is not None
    compare(row, supervised.sum(), trl_dpo_loss(row, lengths, ["sft"], [1.0], 0.3))


@pytest.mark.parametrize("name", ["simpo", "cpo"])
def test_simpo_and_cpo(name: str) -> None:
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    row, _ = random_row(3)
    trainer: Any = SimpleNamespace(
        alpha=0.0, beta=2.0 if name == "simpo" else 0.1, label_smoothing=0.0, simpo_gamma=0.6,
        loss_type="simpo" if name == "simpo" else "sigmoid", accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    options = {"gamma": 0.6} if name == "simpo" else {"nll_weight": 0.0}
    values = row.average_logps if name == "simpo" else row.logps
    theirs, chosen_rewards, _ = CPOTrainer.cpo_loss(trainer, row.chosen(values), row.rejected(values))
    objective = load_objective(name, options)
    losses = objective.losses(row).pairs
    assert losses is not None
    compare(row, losses.mean(), theirs.mean())
    torch.testing.assert_close(row.chosen(objective.rewards(row)).detach(), chosen_rewards)


def test_orpo() -> None:
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    row, _ = random_row(4)
    trainer: Any = SimpleNamespace(beta=0.5, accelerator=SimpleNamespace(device="cpu"))
    averages = row.average_logps
    weighted, *_ = ORPOTrainer.odds_ratio_loss(trainer, row.chosen(averages), row.rejected(averages))
    theirs = (-row.chosen(averages) - weighted).mean()
    losses = load_objective("orpo", {"odds_weight": 0.5}).losses(row).pairs
    assert losses is not None
    # TRL takes these log-probabilities to float32.
    compare(row, losses.mean(), theirs, tolerance=1e-5)


def test_cdpo_from_two_of_trls_terms() -> None:
    """TRL 1.16's `sigmoid` ignores label smoothing; the smoothed loss is its loss on the pair and on the swapped pair, mixed."""
    row, lengths = random_row(5)
    losses = load_objective("cdpo", {"beta": 0.2, "label_smoothing": 0.15}).losses(row).pairs
    assert losses is not None
    right = trl_dpo_loss(row, lengths, ["sigmoid"], [1.0], 0.2)
    wrong = trl_dpo_loss(row, lengths, ["sigmoid"], [1.0], -0.2)
    compare(row, losses.mean(), 0.85 * right + 0.15 * wrong)
