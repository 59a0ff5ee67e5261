"""The didactic problem: what the objectives' own files do to a policy over a hundred tokens."""

import pytest
import torch

from bnf.studies import bandit, length
from bnf.studies.simulation import LIKELIHOOD, METHODS, NEGATIVE, Curves, Sampler, Tokens, simulate

SEEDS = range(20)


def speed(curves: Curves) -> torch.Tensor:
    return curves.mass.mean(0)


def likely(name: str, sampler: Sampler, steps: int = 100) -> Curves:
    return simulate(METHODS[name], bandit.PROBLEMS["likely"], sampler, SEEDS, steps)


def test_the_problem_is_what_it_says() -> None:
    rewards = bandit.PROBLEMS["likely"].rewards
    assert rewards.argmax() == 35 and rewards.max() == 1
    start = likely("BNF", "off-policy", steps=1)
    assert not start.kl[0].any() and not start.reverse_kl[0].any() and (start.kl[1] > 0).all()
    assert start.mass[0].tolist() == pytest.approx([0.119] * 20, abs=1e-3)


def test_a_seed_does_not_depend_on_those_beside_it() -> None:
    for name in ("BNF", "GRPO"):
        alone = simulate(METHODS[name], bandit.PROBLEMS["rare"], "on-policy", [7], 5)
        beside = simulate(METHODS[name], bandit.PROBLEMS["rare"], "on-policy", [3, 7], 5)
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


def test_the_tokens_of_a_length_have_its_probability() -> None:
    """All lengths together have a probability of 1, and each that of its tokens: going on so often, and stopping or being cut off."""
    problem = length.PROBLEMS["min"]
    of_lengths = problem.outcome_logps(problem.start[None])
    assert float(of_lengths.exp().sum()) == pytest.approx(1)
    for outcome in (0, 5, length.MAX_LENGTH - 2, length.MAX_LENGTH - 1):
        number = int(problem.lengths[outcome])
        nothing = torch.zeros(number, dtype=torch.long)
        tokens = Tokens(nothing, nothing, torch.arange(number), torch.full((number,), outcome))
        assert float(problem.token_logps(problem.start[None], tokens).sum()) == pytest.approx(float(of_lengths[0, outcome]))


def test_a_shorter_length_is_found_faster_on_policy_and_with_a_negative_gradient() -> None:
    """In each of 20 seeds: the reference gives one token with a probability of 0.004."""

    def shortest(name: str, sampler: Sampler) -> torch.Tensor:
        return speed(simulate(METHODS[name], length.PROBLEMS["min"], sampler, SEEDS, 200))

    assert (shortest("preferred FT", "on-policy") > shortest("preferred FT", "off-policy")).all()
    assert (shortest("DPO", "on-policy") > shortest("preferred FT", "on-policy")).all()
