"""Objectives against TRL 1.16's own functions, value and gradient, in float64 unless TRL computes in float32."""

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bnf.data.packing import Row
from bnf.model.attention import ATTENTION
from bnf.model.logps import row_logps
from bnf.objectives import RowLogps, load_objective
from bnf.training.losses import Totals, assemble, count, total_loss
from tests.unit.bnf.helpers import random_groups, row_of
from tests.unit.bnf.test_attention import make

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


@pytest.mark.parametrize("drift", [1.0, -1.0], ids=["z above 0", "z clamped at 0"])
@pytest.mark.parametrize("seed", [6, 7])
def test_kto(seed: int, drift: float) -> None:
    """TRL's KTOTrainer._compute_loss on one batch, given our log-probabilities of matched and mismatched completions."""
    from trl.trainer.kto_trainer import KTOTrainer

    row, lengths = random_row(seed)
    num = len(lengths)
    labels = [1, 1, -1, 1, -1, 1, 1, -1, 1, 1]
    # The mismatched completions are the batch's own, shifted by one; their log-probabilities are made up.
    shifted = [lengths[-1], *lengths[:-1]]
    generator = torch.Generator().manual_seed(seed)
    mismatched = [-torch.rand(length, generator=generator, dtype=torch.float64) for length in shifted]
    mismatched_reference = (
        torch.stack([own.sum() for own in mismatched]) - drift * torch.rand(num, generator=generator).double()
    )

    def padded(values: list[Tensor]) -> Tensor:
        return torch.stack([torch.nn.functional.pad(own, (0, max(lengths) - len(own))) for own in values])

    def mask(sizes: list[int]) -> Tensor:
        return torch.tensor([[0] + [1] * size + [0] * (max(lengths) - size) for size in sizes])

    class Model:
        training = True

        def __call__(self, **kwargs: Any) -> Any:
            own = mismatched if bool((kwargs["input_ids"] == 1).all()) else list(row.per_token_logps.split(lengths))
            log_probs = padded(own)
            zeros = torch.zeros_like(log_probs)
            return SimpleNamespace(log_probs=log_probs, entropy=zeros, mean_logits=zeros)

    trainer: Any = object.__new__(KTOTrainer)
    trainer.__dict__ |= {
        "model": Model(), "beta": 0.3, "desirable_weight": 1.25, "undesirable_weight": 0.75, "loss_type": "kto",
        "calculate_KL": True, "precompute_ref_logps": True, "aux_loss_enabled": False, "_total_train_tokens": 0, "_tp_size": 1,
        "_metrics": {"train": defaultdict(list)},
        "accelerator": SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda value: value),
    }  # fmt: skip
    ids = torch.zeros(num, max(lengths) + 1, dtype=torch.long)
    inputs = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask(lengths),
        "KL_input_ids": ids + 1, "KL_attention_mask": torch.ones_like(ids), "KL_completion_mask": mask(shifted),
        "label": torch.tensor(labels) > 0, "ref_logps": row.reference_logps, "ref_KL_logps": mismatched_reference,
    }  # fmt: skip
    theirs = trainer._compute_loss(trainer.model, inputs, False)

    z = (torch.cat(mismatched).sum() - mismatched_reference.sum()) / num
    assert (float(z) > 0) == (drift > 0)
    seen = replace(row, labels=torch.tensor(labels, dtype=torch.float64), kl_pair_logratio=z)
    objective = load_objective("kto", {"beta": 0.3, "desirable_weight": 1.25, "undesirable_weight": 0.75})
    compare(seen, total_loss(objective.losses(seen), seen, Totals(num, 0)), theirs)
    rewards = objective.rewards(seen).detach()[torch.tensor(labels) > 0].mean()
    assert trainer._metrics["train"]["rewards/chosen"] == [pytest.approx(rewards.item())]


FROM_TOKENS = [
    ("orpo", {"odds_weight": 0.5, "nll_scope": "all"}, {"beta": 0.5}),
    ("orpo", {"odds_weight": 0.5}, {"beta": 0.5}),
    ("cpo", {"beta": 0.2, "nll_weight": 0.7}, {"loss_type": "sigmoid", "beta": 0.2, "cpo_alpha": 0.7}),
    ("simpo", {"gamma": 0.6}, {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.6, "cpo_alpha": 0.0}),
]


@pytest.mark.parametrize(("name", "options", "trls"), FROM_TOKENS, ids=["orpo, prompt and completion", "orpo", "cpo", "simpo"])
@pytest.mark.parametrize("seed", [0, 1])
def test_from_token_ids_to_the_models_gradient(name: str, options: dict[str, Any], trls: dict[str, Any], seed: int) -> None:
    """The packed path against TRL's whole loss of a micro-batch of one pair, likelihood terms included.

    TRL's ORPO takes the likelihood of prompt and completion; over the completion alone it is that with the likelihood exchanged.
    """
    from trl.experimental.cpo.cpo_trainer import CPOTrainer
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    group = random_groups(1, seed=seed, most=2)[0]
    batch: dict[str, Any] = {}
    for side, completion in zip(("chosen", "rejected"), group.completions, strict=True):
        ids = torch.tensor([[*group.prompt_ids, *completion.token_ids]])
        labels = ids.clone()
        labels[:, : len(group.prompt_ids)] = -100
        batch |= {f"{side}_input_ids": ids, f"{side}_attention_mask": torch.ones_like(ids), f"{side}_labels": labels}
    trainer: Any = object.__new__(ORPOTrainer if name == "orpo" else CPOTrainer)
    trainer.__dict__ |= {
        "is_encoder_decoder": False, "aux_loss_enabled": False, "padding_value": 0, "pad_token_id": 0, "label_smoothing": 0.0,
        "accelerator": SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda value: value), "alpha": 0.0, **trls,
    }  # fmt: skip
    theirs_model, ours_model = make("llama_tied"), make("llama_tied")
    theirs_model.set_attn_implementation("eager")
    theirs, metrics = trainer.get_batch_loss_metrics(theirs_model, batch)
    if name == "orpo" and "nll_scope" not in options:
        chosen, _, _, _, of_all = trainer.concatenated_forward(theirs_model, batch)
        theirs = theirs - of_all - chosen.mean()
    theirs.backward()

    ours_model.set_attn_implementation(ATTENTION)
    objective = load_objective(name, options)
    packed = Row((group,), (0,))
    seen = assemble(packed, row_logps(ours_model, packed, bf16=False, prompts=objective.needs_prompts), None)
    ours = total_loss(objective.losses(seen), seen, count(objective, [group]))
    ours.backward()
    # transformers rotates in float32, and TRL takes the odds to float32.
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=1e-5, atol=1e-5)
    for mine, other in zip(ours_model.parameters(), theirs_model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5)
    assert float(metrics["rewards/chosen"]) == pytest.approx(objective.rewards(seen).detach()[0].item(), rel=1e-5)


def sampled_row(seed: int, *, spread: float) -> tuple[RowLogps, Tensor]:
    """Three prompts with four samples each, whose policy lies `spread` from the one that sampled, and the samples' mask (12, T)."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 8, (12,), generator=generator).tolist()
    old = [-torch.rand(length, generator=generator, dtype=torch.float64) * 4 - 1 for length in lengths]
    policy, reference = (
        [(each + spread * torch.randn(len(each), generator=generator, dtype=torch.float64)).clamp(max=-0.01) for each in old]
        for _ in range(2)
    )
    scores = torch.randint(0, 3, (12,), generator=generator).tolist()
    row = row_of(
        *([each.tolist() for each in policy], [1] * 12),
        reference=[each.tolist() for each in reference],
        old=[each.tolist() for each in old],
        scores=scores,
        groups=[place // 4 for place in range(12)],
    )
    return row, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def padded(values: Tensor, mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter(mask, values)


def trl_sampler(row: RowLogps, mask: Tensor, **settings: Any) -> tuple[Any, dict[str, Any]]:
    """A trainer of TRL's, of which only the loss is run, on our log-probabilities, and the loss's inputs without the advantages."""
    assert row.old_per_token_logps is not None and row.reference_per_token_logps is not None
    logps = padded(row.per_token_logps, mask)
    accelerator = SimpleNamespace(
        gather=lambda value: value, reduce=lambda value, reduction: value, num_processes=1, device=torch.device("cpu")
    )
    defaults = {
        "model": SimpleNamespace(training=True), "accelerator": accelerator, "aux_loss_enabled": False, "beta": 0.0,
        "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "importance_sampling_level": "token", "use_vllm": False,
        "current_gradient_accumulation_steps": 1, "max_completion_length": 9, "_entropy_bonus_enabled": False,
        "_get_per_token_logps_and_entropies": lambda *args, **kwargs: (logps, torch.zeros_like(logps), None),
        "_metrics": {"train": defaultdict(list)}, "epsilon_low": 0.2, "epsilon_high": 0.2,
        "args": SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
    }  # fmt: skip
    old = padded(row.old_per_token_logps, mask)
    inputs = {
        "prompt_ids": torch.zeros(12, 1).long(), "prompt_mask": torch.ones(12, 1).long(),
        "completion_ids": torch.zeros(mask.shape).long(), "completion_mask": mask.long(),
        "old_per_token_logps": old, "old_logps": old.sum(1), "num_items_in_batch": mask.sum(),
        "ref_per_token_logps": padded(row.reference_per_token_logps, mask),
    }  # fmt: skip
    return SimpleNamespace(**(defaults | settings)), inputs


GRPO = [
    ({}, {"loss_type": "grpo"}),
    ({"loss_aggregation": "token_mean", "epsilon_high": 0.28}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    (
        {"loss_aggregation": "constant", "max_completion_length": 9, "scale_rewards": "none"},
        {"loss_type": "dr_grpo", "max_completion_length": 9},
    ),
    ({"kl_coef": 0.3}, {"loss_type": "grpo", "beta": 0.3}),
    ({"kl_coef": 0.3, "loss_aggregation": "token_mean"}, {"loss_type": "dapo", "beta": 0.3}),
]


@pytest.mark.parametrize(("options", "settings"), GRPO)
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_grpo(options: dict[str, Any], settings: dict[str, Any], spread: float) -> None:
    row, mask = sampled_row(3, spread=spread)
    compare_samples("grpo", options, row, mask, settings)


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_gspo(spread: float) -> None:
    row, mask = sampled_row(4, spread=spread)
    settings = {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 0.1, "epsilon_high": 0.15}
    compare_samples("gspo", {"epsilon": 0.1, "epsilon_high": 0.15}, row, mask, settings)
    compare_samples("gspo", {"epsilon": 0.1, "epsilon_high": 0.15, "kl_coef": 0.2}, row, mask, settings | {"beta": 0.2})


def compare_samples(name: str, options: dict[str, Any], row: RowLogps, mask: Tensor, settings: dict[str, Any]) -> None:
    """Against `GRPOTrainer._compute_loss`, with the advantages as it computes them."""
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.utils import nanstd

    rewards = row.scores.view(3, 4)
    advantages = rewards - rewards.mean(1, keepdim=True)
    if options.get("scale_rewards") != "none":
        # TRL rounds Bessel's correction to float32.
        torch.testing.assert_close(nanstd(rewards, dim=1), rewards.std(1), rtol=1e-7, atol=0)
        advantages = advantages / (rewards.std(1, keepdim=True) + 1e-4)
    trainer, inputs = trl_sampler(row, mask, **settings)
    theirs = GRPOTrainer._compute_loss(trainer, trainer.model, inputs | {"advantages": advantages.flatten()})
    losses = load_objective(name, options).losses(row)
    lengths = int(row.lengths.sum()) if options.get("loss_aggregation") == "token_mean" else 12
    compare(row, total_loss(losses, row, Totals(lengths, 0)), theirs)


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_rloo(spread: float, kl_coef: float) -> None:
    """PPO by sequences with the leave-one-out baseline is `RLOOTrainer._compute_loss`, whose KL term is k1; where the policy sampled,
    REINFORCE has its gradient."""
    from trl.trainer.rloo_trainer import RLOOTrainer

    row, mask = sampled_row(5, spread=spread)
    rewards = (row.scores - kl_coef * (row.old_logps - row.reference_logps)).view(3, 4)
    advantages = (rewards - (rewards.sum(1, keepdim=True) - rewards) / 3).flatten()
    trainer, inputs = trl_sampler(row, mask)
    theirs = RLOOTrainer._compute_loss(trainer, trainer.model, inputs | {"advantages": advantages})
    options = {"kl_coef": kl_coef, "kl_estimator": "k1"} if kl_coef else {}
    losses = load_objective("ppo", options | {"ratio": "sequence"}).losses(row)
    compare(row, total_loss(losses, row, Totals(12, 0)), theirs)
    if not spread:
        ours = total_loss(load_objective("reinforce", options).losses(row), row, Totals(12, 0))
        own, trls = (torch.autograd.grad(loss, row.per_token_logps, retain_graph=True)[0] for loss in (ours, theirs))
        torch.testing.assert_close(own, trls, rtol=1e-10, atol=1e-10)
