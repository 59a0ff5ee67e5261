"""The didactic problem: what the objectives' own files do to a policy over a hundred tokens."""

import pytest
import torch

from bnf.studies.bandit import LIKELIHOOD, METHODS, NEGATIVE, PEAKS, Curves, reference_logps, rewards_of, simulate

SEEDS = range(20)


def speed(curves: Curves) -> torch.Tensor:
    return curves.mass.mean(0)


def likely(name: str, sampler: str, steps: int = 100) -> Curves:
    return simulate(METHODS[name], PEAKS["likely"], sampler, SEEDS, steps)  # type: ignore[arg-type]


def test_the_problem_is_what_it_says() -> None:
    assert rewards_of(35).argmax() == 35 and rewards_of(35).max() == 1
    assert float(reference_logps().exp().sum()) == pytest.approx(1)
    start = likely("BNF", "off-policy", steps=1)
    assert not start.kl[0].any() and not start.reverse_kl[0].any() and (start.kl[1] > 0).all()
    assert start.mass[0].tolist() == pytest.approx([0.119] * 20, abs=1e-3)


def test_a_seed_does_not_depend_on_those_beside_it() -> None:
    for name in ("BNF", "GRPO"):
        alone = simulate(METHODS[name], 50, "on-policy", [7], 5)
        beside = simulate(METHODS[name], 50, "on-policy", [3, 7], 5)
        torch.testing.assert_close(alone.reward[:, 0], beside.reward[:, 1], rtol=1e-12, atol=0)


def test_ppo_is_reinforce_where_every_step_has_new_samples() -> None:
    ppo, reinforce = (likely(name, "on-policy", steps=10) for name in ("PPO", "REINFORCE"))
    torch.testing.assert_close(ppo.reward, reinforce.reward, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["preferred FT", "RWR", "BNF without negatives", "REINFORCE without negatives"])
def test_on_policy_samples_are_faster_than_the_references(name: str) -> None:
    """arXiv 2404.14367, in each of 20 seeds."""
    assert name in LIKELIHOOD
    assert (speed(likely(name, "on-policy")) > speed(likely(name, "off-policy"))).all()


@pytest.mark.parametrize("name", ["BNF", "TOPR", "DPO", "IPO"])
def test_a_negative_gradient_is_faster_than_likelihood_off_policy(name: str) -> None:
    """The same samples, labels and pairs, in each of 20 seeds."""
    assert name in NEGATIVE
    assert (speed(likely(name, "off-policy")) > speed(likely("preferred FT", "off-policy"))).all()


def test_clipped_ratios_keep_the_policy_near_the_one_that_sampled() -> None:
    clipped, free = likely("PPO", "off-policy"), likely("REINFORCE", "off-policy")
    assert (clipped.kl[-1] < 0.2).all() and (free.kl[-1] > clipped.kl[-1]).all()
