"""The policy-gradient objectives: advantages, ratios to the policy that sampled, and what they take of a round."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bnf.data.groups import Completion, PromptGroup
from bnf.objectives import RowLogps, load_objective
from bnf.reference.cache import cache_reference
from bnf.train import run as train_alone
from bnf.training.checks import check_data
from bnf.training.config import TrainConfig
from bnf.training.launch import Call
from bnf.training.losses import Totals, count, total_loss
from bnf.training.own_reference import ReferenceMismatch
from bnf.training.preparation import Folders
from bnf.training.remedies import remedies
from bnf.training.trainer import train
from tests.unit.bnf.helpers import row_of
from tests.unit.bnf.test_trainer import metrics
from tests.unit.bnf.training import BASE, ignore, run, same, weights

SCORES = [1.0, 0.0, 0.5, 2.0, 2.0]
GROUPS = [0, 0, 0, 1, 1]


def samples(seed: int = 0, *, same: bool = False) -> RowLogps:
    """Three samples of one prompt and two of another, which are equally good; with `same` the policy is the one that sampled."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> list[list[float]]:
        return [(-torch.rand(size, generator=generator, dtype=torch.float64) - 0.1).tolist() for size in (3, 1, 4, 2, 5)]

    old, reference, policy = draw(), draw(), draw()
    labels = [1, -1, 1, 1, 1]
    return row_of(old if same else policy, labels, old=old, reference=reference, scores=SCORES, groups=GROUPS)


def gradient(name: str, options: dict[str, Any], row: RowLogps) -> Tensor:
    loss = total_loss(load_objective(name, options).losses(row), row, Totals(5, 0))
    return torch.autograd.grad(loss, row.per_token_logps)[0]


def advantages(options: dict[str, Any], batch_sums: tuple[float, ...] = ()) -> list[float]:
    """REINFORCE's: the negative slope of a completion's loss, at each of its tokens."""
    row = replace(samples(), batch_sums=batch_sums)
    slopes = -gradient("reinforce", options, row) * 5
    return [float(slopes[row.completion_of_token == place][0]) for place in range(5)]


def test_advantages_by_hand() -> None:
    assert advantages({"baseline": "none"}) == pytest.approx(SCORES)
    assert advantages({"baseline": "prompt_mean"}) == pytest.approx([0.5, -0.5, 0, 0, 0])
    # Each against the mean of the other two: 1 − 0.25, 0 − 0.75, 0.5 − 0.5.
    assert advantages({}) == pytest.approx([0.75, -0.75, 0, 0, 0])
    assert advantages({"negative_gradient": False}) == pytest.approx([0.75, 0, 0, 0, 0])


@pytest.mark.parametrize("name", ["reinforce", "ppo", "grpo", "gspo"])
def test_the_entropy_bonus_by_hand(name: str) -> None:
    """Less loss for more entropy: summed over a completion's 3, 1, 4, 2, 5 tokens, or averaged where the objective averages."""
    row = replace(samples(same=True), per_token_entropies=torch.linspace(0.1, 1.5, 15, dtype=torch.float64))
    plain, with_bonus = (load_objective(name, options).losses(row).completions for options in ({}, {"entropy_coef": 0.3}))
    assert plain is not None and with_bonus is not None
    sums = torch.tensor([0.6, 0.4, 2.6, 1.9, 6.5], dtype=torch.float64)
    expected = sums / row.lengths if name in ("grpo", "gspo") else sums
    torch.testing.assert_close(plain - with_bonus, 0.3 * expected)
    assert load_objective(name, {"entropy_coef": 0.3}).needs_entropies and not load_objective(name, {}).needs_entropies


def test_equal_scores_have_no_advantage_at_all() -> None:
    """Three times a third is not one in floating point."""
    row = row_of([[-1.0]] * 3, [1] * 3, scores=[0.1] * 3, reference=[[-1.0]] * 3)
    for name in ("reinforce", "ppo", "grpo", "gspo"):
        assert not gradient(name, {}, row).any()


def test_a_single_sample_has_no_advantage() -> None:
    row = row_of([[-1.0]], [1], scores=[1.0], reference=[[-1.0]])
    for name in ("reinforce", "ppo", "grpo", "gspo"):
        assert not gradient(name, {}, row).any()


def test_whitened_advantages_by_hand() -> None:
    """Over the batch, here (0.75, −0.75, 0, 0, 0) and another group's (1, −1): mean 0, and the deviation that of all seven."""
    objective = load_objective("reinforce", {"whiten": True})
    own = [PromptGroup("a", (1,), tuple(Completion((2,), 1, score) for score in SCORES[:3]))]
    own += [PromptGroup("b", (1,), tuple(Completion((2,), 1, score) for score in SCORES[3:]))]
    other = PromptGroup("c", (1,), (Completion((2,), 1, 4.0), Completion((2,), -1, 3.0)))
    sums = count(objective, [*own, other]).batch_sums
    assert sums == pytest.approx((7, 0, 2 * 0.75**2 + 2))
    deviation = math.sqrt((2 * 0.75**2 + 2) / 6) + 1e-4
    assert advantages({"whiten": True}, sums) == pytest.approx([0.75 / deviation, -0.75 / deviation, 0, 0, 0])
    assert count(objective, []).batch_sums == (0, 0, 0)


def test_scores_without_a_baseline_are_whitened_by_hand() -> None:
    """Scores 1, 0 and 5 over the batch: their mean is 2, their variance (1 + 4 + 9) / 2."""
    objective = load_objective("reinforce", {"baseline": "none", "whiten": True})
    groups = [
        PromptGroup("a", (1,), (Completion((2,), 1, 1.0), Completion((3,), 1, 0.0))),
        PromptGroup("b", (1,), (Completion((2,), 1, 5.0),)),
    ]
    sums = objective.batch_sums(groups)
    assert sums == (3, 6, 26)
    row = replace(row_of([[-1.0], [-1.0], [-1.0]], [1, 1, 1], scores=[1.0, 0.0, 5.0], groups=[0, 0, 1]), batch_sums=sums)
    expected = [(score - 2) / math.sqrt(7) for score in (1, 0, 5)]
    assert objective.advantages(row).tolist() == pytest.approx(expected, rel=1e-4)


def test_k1_is_a_term_of_the_scores() -> None:
    row = samples()
    shaped = row.scores - 0.3 * (row.old_logps - row.reference_logps)
    for name in ("reinforce", "ppo", "grpo", "gspo"):
        found = gradient(name, {"kl_coef": 0.3, "kl_estimator": "k1"}, row)
        torch.testing.assert_close(found, gradient(name, {}, replace(row, scores=shaped)))


@pytest.mark.parametrize("options", [{}, {"baseline": "none"}, {"negative_gradient": False}, {"kl_coef": 0.2}])
def test_ppo_has_reinforces_gradient_where_the_policy_sampled(options: dict[str, Any]) -> None:
    row = samples(same=True)
    expected = gradient("reinforce", options, row)
    assert expected.any()
    for ratio in ("token", "sequence"):
        torch.testing.assert_close(gradient("ppo", {**options, "ratio": ratio}, row), expected, rtol=0, atol=1e-15)


def test_grpo_and_gspo_are_one_where_the_policy_sampled() -> None:
    row = samples(same=True)
    torch.testing.assert_close(gradient("grpo", {}, row), gradient("gspo", {}, row), rtol=0, atol=1e-15)


def test_topr_is_signed_likelihood_where_the_policy_sampled_and_lets_go_of_what_fell() -> None:
    row = samples(same=True)
    signs = row.labels[row.completion_of_token]
    torch.testing.assert_close(gradient("topr", {}, row), -signs / 5)
    fallen = replace(row, per_token_logps=(row.per_token_logps.detach() - 10).requires_grad_())
    found = gradient("topr", {}, fallen)
    torch.testing.assert_close(found[signs > 0], -torch.ones_like(found[signs > 0]) / 5)
    assert 0 < found[signs < 0].max() < 1e-4
    # It never counts more than once, however far it has risen.
    risen = replace(row, per_token_logps=(row.per_token_logps.detach() * 0.01).requires_grad_())
    torch.testing.assert_close(gradient("topr", {}, risen), -signs / 5)


def test_clipped_ratios_are_counted() -> None:
    """Log-ratios of 1 for the first sample (advantage above 0), −1 for the second (below), 1 for the third (none)."""
    row = row_of(
        [[-1.0, -1.0], [-3.0], [-1.0]], [1, -1, 1], old=[[-2.0, -1.0], [-2.0], [-2.0]], scores=[1.0, 0.0, 0.5], groups=[0] * 3
    )
    for name in ("ppo", "grpo"):
        found = load_objective(name).metrics(row)
        assert found["clip_ratio/high"].tolist() == [1, 0, 0, 0] and found["clip_ratio/low"].tolist() == [0, 0, 1, 0]
        assert found["ratio"].tolist() == pytest.approx([math.e, 1, 1 / math.e, math.e])
    assert load_objective("gspo").metrics(row)["clip_ratio/high"].tolist() == [1, 0, 0]
    assert load_objective("topr").metrics(row)["ratio_up_to_1"].tolist() == pytest.approx([1, 1 / math.e, 1])
    # What is counted as clipped is what has no gradient.
    assert (gradient("ppo", {}, row) != 0).tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("name", "options", "needed"),
    [
        ("reinforce", {}, (False, False)),
        ("reinforce", {"kl_coef": 0.1}, (True, False)),
        ("reinforce", {"kl_coef": 0.1, "kl_estimator": "k1"}, (True, True)),
        ("grpo", {}, (False, True)),
        ("grpo", {"kl_coef": 0.1}, (True, True)),
        ("topr", {}, (False, True)),
    ],
)
def test_options_decide_what_is_needed(name: str, options: dict[str, Any], needed: tuple[bool, bool]) -> None:
    objective = load_objective(name, options)
    assert (objective.needs_reference, objective.needs_old) == needed
    assert objective.needs_cache == any(needed) and objective.needs_every_sample
    assert not load_objective("bnf").needs_every_sample and not load_objective("bnf").needs_old


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("reinforce", {"baseline": "value"}, "baseline must be none, prompt_mean or leave_one_out, got 'value'"),
        ("reinforce", {"whiten": 1}, "whiten must be true or false, got 1"),
        ("reinforce", {"kl_coef": -1}, "kl_coef must be a number of at least 0, got -1"),
        ("gspo", {"entropy_coef": -1}, "entropy_coef must be a number of at least 0, got -1; 0 leaves the bonus out"),
        (
            "reinforce",
            {"kl_estimator": "k2"},
            "kl_estimator must be k3, the default, where kl_coef is 0, got 'k2'; set kl_coef",
        ),
        (
            "reinforce",
            {"whiten": True, "kl_coef": 1.0, "kl_estimator": "k1"},
            "whiten must be false with kl_estimator k1, which changes the scores, got True",
        ),
        ("ppo", {"epsilon": 1.0}, "epsilon must be below 1, got 1.0"),
        ("ppo", {"epsilon_high": -0.1}, "epsilon_high must be a number of at least 0"),
        ("ppo", {"ratio": "group"}, "ratio must be token or sequence, got 'group'"),
        ("grpo", {"loss_aggregation": "constant"}, "max_completion_length must be a whole number of at least 1 with"),
        ("grpo", {"max_completion_length": 5}, "and left out with others, got 5; sample.max_new_tokens is usual"),
        ("grpo", {"scale_rewards": "batch"}, "scale_rewards must be group or none, got 'batch'"),
        ("topr", {"advantage": "none"}, "advantage must be label, prompt_mean or leave_one_out, got 'none'"),
    ],
)
def test_options_that_break_their_rule(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_objective(name, options)


def test_equal_rewards_everywhere_are_nothing_to_learn_from() -> None:
    group = PromptGroup("g", (1,), (Completion((2,), 1, 1.0), Completion((3,), 1, 1.0)))
    for name in ("reinforce", "ppo", "grpo", "gspo"):
        with pytest.raises(ValueError, match="groups must hold a prompt whose completions have different scores"):
            check_data(TrainConfig(objective=name), [group])
    check_data(TrainConfig(objective="topr"), [group])
    check_data(TrainConfig(objective="reinforce", objective_options={"baseline": "none"}), [group])


@pytest.mark.parametrize(
    ("logratio", "value", "slope"),
    [
        (-1.0, math.e - 2, 1 - math.e),
        (-20.0, math.exp(20) - 21, 1 - math.exp(20)),
        # The tangent at −20 has at −30 eleven times its height, at −1000 981 times.
        (-30.0, 11 * math.exp(20) - 31, 1 - math.exp(20)),
        (-1000.0, 981 * math.exp(20) - 1001, 1 - math.exp(20)),
    ],
)
def test_k3_is_finite_however_unlikely_a_token_has_become_and_pulls_it_up(logratio: float, value: float, slope: float) -> None:
    row = row_of([[logratio - 0.5]], [1], reference=[[-0.5]], old=[[logratio - 0.5]], scores=[0.0])
    own = row.per_token_logps.detach().float().requires_grad_()
    assert row.reference_per_token_logps is not None and row.old_per_token_logps is not None
    row = replace(row, per_token_logps=own, reference_per_token_logps=row.reference_per_token_logps.float())
    objective = load_objective("reinforce", {"kl_coef": 0.5, "baseline": "none"})
    losses = objective.losses(row).completions
    assert losses is not None and losses.item() == pytest.approx(0.5 * value, rel=1e-5)
    losses.sum().backward()
    assert own.grad is not None and own.grad.item() == pytest.approx(0.5 * slope, rel=1e-5)


def test_what_a_collapse_is_answered_with_says_the_kl_coef_that_there_is() -> None:
    for name in ("reinforce", "ppo", "grpo", "gspo"):
        assert "objective_options.kl_coef above 0, which holds" in remedies(TrainConfig(objective=name))
        held = TrainConfig(objective=name, objective_options={"kl_coef": 0.05})
        assert "a higher objective_options.kl_coef (now 0.05), which holds" in remedies(held)


def first_step(output: Path) -> dict[str, Any]:
    return next(line for line in metrics(output) if line["step"] == 1)


def test_a_first_round_takes_the_reference_as_the_policy_that_sampled(workplace: Path, tmp_path: Path) -> None:
    run(workplace, tmp_path, objective="ppo", max_steps=2)
    first, second = (line for line in metrics(tmp_path) if "loss" in line)
    assert (first["ratio"], first["clip_ratio/low"], first["clip_ratio/high"]) == (1, 0, 0)
    assert second["ratio"] != 1


def test_an_entropy_bonus_keeps_the_policys_entropy_higher(workplace: Path, tmp_path: Path) -> None:
    last = []
    for coefficient in (0.0, 1.0, 10.0):
        settings = {"objective": "reinforce", "objective_options": {"entropy_coef": coefficient}, "max_steps": 4}
        run(workplace, tmp_path / f"{coefficient}", **settings)
        last.append([line["entropy"] for line in metrics(tmp_path / f"{coefficient}") if "loss" in line][-1])
    assert last[0] < last[1] < last[2]
    # Steps that aren't logged need the entropies too.
    run(workplace, tmp_path / "seldom logged", logging_steps=3, **settings)
    assert same(weights(tmp_path / "seldom logged"), weights(tmp_path / "10.0"))


@pytest.fixture
def later_round(workplace: Path, tmp_path: Path) -> tuple[Path, Callable[[Path, str], dict[str, Any]]]:
    """The cached values of a later round's start, and the training of that round with values of it, in a folder."""
    run(workplace, tmp_path / "round1", objective="grpo", max_steps=1)
    start, old = tmp_path / "round1" / "policy", tmp_path / "old"
    cache_reference(start, workplace / "groups", old, max_tokens_per_row=48, bf16=False, progress=ignore)
    config = TrainConfig(**BASE, max_steps=2, objective="grpo", objective_options={"kl_coef": 0.1})

    def train_on(old: Path, output: str) -> dict[str, Any]:
        reference = workplace / "reference_False"
        folders = Folders(start, workplace / "groups", reference, tmp_path / output, workplace / "model", old)
        return train(config, folders, step0_check=False, progress=ignore).to_json()

    return old, train_on


def test_values_that_another_machine_computed_are_computed_again_and_that_is_said(
    later_round: tuple[Path, Callable[[Path, str], dict[str, Any]]], tmp_path: Path
) -> None:
    """With half of the values higher and half lower the mean of the ratios alone would hide it."""
    old, train_on = later_round
    there = train_on(old, "there")
    assert "old_mismatch" not in there and "old_made_elsewhere" not in there
    shard = old / "reference-00000.safetensors"
    with safe_open(shard, framework="pt") as file:
        metadata, values = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    signs = torch.ones_like(values["logps"])
    signs[::2] = -1
    save_file({**values, "logps": values["logps"] + 1e-3 * signs}, shard, metadata=metadata)
    with pytest.raises(
        ReferenceMismatch, match=r"mean ratio at step 0 must be 1 .* started again, training computes the values of old itself"
    ):
        train_on(old, "here")
    summary = train_on(old, "here")
    assert summary["old_mismatch"] == pytest.approx(1 - 0.5e-3, abs=1e-4) and summary["reference_mismatch"] is None
    assert first_step(tmp_path / "here")["ratio"] == 1
    assert same(weights(tmp_path / "here"), weights(tmp_path / "there"))
    assert not list((tmp_path / "here").glob("o*old*")), "neither values nor the note"


def test_values_that_another_kind_of_device_computed_are_said(
    later_round: tuple[Path, Callable[[Path, str], dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, train_on = later_round
    index = json.loads((old / "index.json").read_text())
    (old / "index.json").write_text(json.dumps({**index, "head_logits": 2**27}))
    assert train_on(old, "out")["old_made_elsewhere"] == f"head_logits {2**27}, here {2**25}"


def test_values_of_its_own_that_differ_still_end_the_training(
    later_round: tuple[Path, Callable[[Path, str], dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, train_on = later_round
    monkeypatch.setattr("bnf.training.identity.IdentityCheck.mean_weight", lambda self: 0.9)
    with pytest.raises(ReferenceMismatch):
        train_on(old, "out")
    with pytest.raises(ValueError, match="computed these values itself, so one of its two passes is wrong") as caught:
        train_on(old, "out")
    assert not isinstance(caught.value, ReferenceMismatch)


def test_a_later_round_has_values_of_the_policy_that_it_starts_from(workplace: Path, tmp_path: Path) -> None:
    """The reference is the first round's start, and yet the first step's ratios are 1 to the bit."""
    run(workplace, tmp_path / "round1", objective="grpo", max_steps=1)
    start, old = tmp_path / "round1" / "policy", tmp_path / "old"
    cache_reference(start, workplace / "groups", old, max_tokens_per_row=48, bf16=False, progress=ignore)
    config = TrainConfig(**BASE, max_steps=1, objective="grpo", objective_options={"kl_coef": 0.1})

    def folders(old_dir: Path | None, output: str) -> Folders:
        reference = workplace / "reference_False"
        return Folders(start, workplace / "groups", reference, tmp_path / output, workplace / "model", old_dir)

    train(config, folders(old, "round2"), step0_check=False, progress=ignore)
    logged = first_step(tmp_path / "round2")
    assert logged["ratio"] == 1 and logged["logps_shift/chosen"] != 0
    with pytest.raises(ValueError, match="old_dir must be given for objective 'grpo'"):
        train(config, folders(None, "without"), step0_check=False, progress=ignore)
    with pytest.raises(ValueError, match="old_dir must be of the model that training starts from"):
        train(config, folders(workplace / "reference_False", "others"), step0_check=False, progress=ignore)
    with pytest.raises(ValueError, match="reference_model must be given for objective 'grpo'"):
        train_alone(config, start, workplace / "groups", workplace / "reference_False", tmp_path / "unnamed")
    # As several processes are told it.
    call = Call(config, folders(old, "round2"), False)
    assert Call.from_json(json.dumps(call.to_json())) == replace(call, checkpoints=[])
