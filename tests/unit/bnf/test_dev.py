import json
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM

from bnf.data.groups import DEV, Completion, PromptGroup, read_groups, write_groups
from bnf.model.attention import ATTENTION
from bnf.model.loading import load_model
from bnf.reference.cache import cache_reference
from bnf.training.collapse import TrainingCollapsed, check_evaluations
from bnf.training.config import TrainConfig
from bnf.training.dev import Sample, prompts_to_sample, sample
from bnf.training.metrics import sample_metrics
from tests.unit.bnf.helpers import padded_logps, random_groups
from tests.unit.bnf.training import BASE, ignore, metrics, run, same, weights

SMALL: dict[str, Any] = {"dev_prompts": 12, "dev_max_new_tokens": 8}


def evaluations(output: Path) -> list[dict[str, Any]]:
    return [line for line in metrics(output) if "eval_loss" in line]


def test_evaluations_say_what_a_padded_computation_says(dev_workplace: Path, tmp_path: Path) -> None:
    summary = run(dev_workplace, tmp_path, **SMALL, objective="dpo", num_train_epochs=2, eval_steps=4)
    first, *_, last = evaluations(tmp_path)
    steps = summary["steps"]
    assert [line["step"] for line in evaluations(tmp_path)] == sorted({0, steps, *range(4, steps, 4)})
    assert first["eval_samples/kl"] == first["eval_logps_shift/chosen"] == first["eval_rewards/margins"] == 0
    assert first["eval_loss"] == pytest.approx(0.6931, abs=1e-4)
    assert summary["dev"]["groups"] == 8 and summary["dev"]["before"]["eval_loss"] == first["eval_loss"]
    assert summary["dev"]["after"]["eval_samples/kl"] == last["eval_samples/kl"] > 0

    groups = read_groups(dev_workplace / "groups" / DEV)
    completions = [completion for group in groups for completion in group.completions]
    lengths = [len(completion.token_ids) for completion in completions]
    logps = {}
    for name, folder in (("policy", tmp_path / "policy"), ("reference", dev_workplace / "model")):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            logps[name] = padded_logps(model, groups).split(lengths)
    shift = [policy - reference for policy, reference in zip(logps["policy"], logps["reference"], strict=True)]
    chosen = [index for index, completion in enumerate(completions) if completion.label == 1]
    expected = float(torch.stack([shift[index].mean() for index in chosen]).mean())
    assert last["eval_logps_shift/chosen"] == pytest.approx(expected, abs=1e-4)
    expected = float(torch.stack([logps["policy"][index].mean() for index in chosen]).mean())
    assert last["eval_logps/chosen"] == pytest.approx(expected, abs=1e-4)
    offset, losses = 0, []
    for group in groups:
        for first_index, second in group.pairs:
            margin = 0.1 * (shift[offset + first_index].sum() - shift[offset + second].sum())
            losses.append(-torch.nn.functional.logsigmoid(margin))
        offset += len(group.completions)
    assert last["eval_loss"] == pytest.approx(float(torch.stack(losses).mean()), abs=1e-4)


@pytest.mark.integration
def test_evaluating_changes_nothing_of_the_training(workplace: Path, dev_workplace: Path, tmp_path: Path) -> None:
    """Not even where training draws random numbers of its own."""
    settings: dict[str, Any] = {"lora_r": 4, "lora_dropout": 0.2, "learning_rate": 1e-2}
    run(workplace, tmp_path / "without", **settings)
    run(dev_workplace, tmp_path / "with", **settings, **SMALL, eval_steps=1)
    assert same(weights(tmp_path / "without"), weights(tmp_path / "with"))
    trained = ("step", "loss", "grad_norm", "weights/rejected")
    lines = [
        [[line[name] for name in trained] for line in metrics(tmp_path / of) if "loss" in line] for of in ("without", "with")
    ]
    assert lines[0] == lines[1]
    assert len(evaluations(tmp_path / "with")) == len(lines[0]) + 1


@pytest.mark.integration
@pytest.mark.parametrize("lora_r", [0, 4])
def test_a_resumed_training_has_the_same_evaluations(dev_workplace: Path, tmp_path: Path, lora_r: int) -> None:
    settings = SMALL | {"lora_r": lora_r, "save_steps": 2, "eval_steps": 3, "report_to": "tensorboard"}
    run(dev_workplace, tmp_path / "whole", **settings)

    def interrupt(done: int, of: int, note: str) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(dev_workplace, tmp_path / "stopped", interrupt, **settings)
    assert run(dev_workplace, tmp_path / "stopped", **settings)["resumed_from_step"] == 2
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
    whole, resumed = (
        [{name: value for name, value in line.items() if name != "eval_seconds"} for line in evaluations(tmp_path / of)]
        for of in ("whole", "stopped")
    )
    assert whole == resumed and len(whole) > 2
    # What was computed twice is shown once.
    for of in ("whole", "stopped"):
        events = EventAccumulator(str(tmp_path / of / "tensorboard")).Reload()
        assert [event.step for event in events.Scalars("train/loss")] == list(range(1, whole[-1]["step"] + 1))
        assert [event.step for event in events.Scalars("eval/loss")] == [line["step"] for line in whole]


def test_samples_follow_the_models_own_distribution(tiny_model_dir: Path) -> None:
    """Whatever its generation config would make of it; and nothing of model or generators is changed."""
    model = load_model(tiny_model_dir).train()
    model.generation_config.top_k = 1
    model.generation_config.repetition_penalty = 3.0
    before, state = model.generation_config.to_dict(), torch.get_rng_state()
    prompt = (5, 17, 80)
    prompts = [prompt, (3, 4)] * 1500
    samples = sample(model, prompts, max_new_tokens=1, max_tokens=4096, seed=0, bf16=False)
    assert torch.equal(state, torch.get_rng_state())
    assert model.generation_config.to_dict() == before and model.config._attn_implementation == ATTENTION
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    with torch.no_grad():
        expected = plain(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    counts = Counter(each.token_ids[0] for each in samples if each.prompt_ids == prompt)
    found = torch.tensor([counts[token] / 1500 for token in range(97)])
    # Total variation of 1500 draws from some dozens of likely tokens is about 0.05; greedy would be near 1.
    assert float((found - expected).abs().sum() / 2) < 0.12
    assert samples == sample(model, prompts[:32], max_new_tokens=1, max_tokens=4096, seed=0, bf16=False) + samples[32:]


def test_what_is_sampled_for_a_prompt_does_not_depend_on_those_beside_it(tiny_model_dir: Path) -> None:
    model = load_model(tiny_model_dir)
    # The model's own end token comes at once, or not for long.
    model.generation_config.eos_token_id = list(range(2, 20))
    prompts = [group.prompt_ids for group in random_groups(24, prompt=(2, 30))]
    together = sample(model, prompts, max_new_tokens=12, max_tokens=100_000, seed=5, bf16=False)
    assert [each.prompt_ids for each in together] == prompts and len({each.token_ids for each in together}) > 20
    for max_tokens in (1, 90, 300):
        reported: list[tuple[int, int, int, int]] = []
        found = sample(
            model,
            prompts,
            max_new_tokens=12,
            max_tokens=max_tokens,
            seed=5,
            bf16=False,
            progress=lambda *values, reported=reported: reported.append(values),
        )
        assert found == together
        assert reported[0] == (0, 24, 0, 288) and reported[-1][:2] == (24, 24) and reported[-1][3] == 0
        # Tokens come, the most to come falls, and samples that end early leave less of it than was sampled.
        assert [done for done, *_ in reported] == sorted(done for done, *_ in reported)
        assert [tokens for *_, tokens, _ in reported] == sorted(tokens for *_, tokens, _ in reported)
        assert all(tokens + left <= 288 for *_, tokens, left in reported)
    assert sample(model, prompts, max_new_tokens=12, max_tokens=300, seed=6, bf16=False) != together


@pytest.mark.parametrize(("asked", "number"), [(None, 8), (3, 3), (20, 20)])
def test_each_dev_prompt_is_sampled_once_unless_more_are_asked_for(
    dev_workplace: Path, tmp_path: Path, asked: int | None, number: int
) -> None:
    run(dev_workplace, tmp_path, dev_prompts=asked, dev_max_new_tokens=2, eval_steps=100)
    assert {line["eval_samples/number"] for line in evaluations(tmp_path)} == {number}
    assert TrainConfig(dev_prompts=asked).num_dev_samples(1000) == (64 if asked is None else asked)


@pytest.mark.parametrize("settings", [{"dev_prompts": 0}, {"keep_best": "eval_loss", "eval_steps": 2}])
def test_an_evaluation_without_samples_has_the_dev_groups_figures(
    dev_workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """`keep_best` looks at the dev groups alone."""
    plain = settings | {"dev_prompts": 2, "dev_max_new_tokens": 2}
    run(dev_workplace, tmp_path / "sampled", **plain)
    monkeypatch.setattr("bnf.training.evaluating.sample", None)
    summary = run(dev_workplace, tmp_path / "out", **settings)
    assert not [name for line in evaluations(tmp_path / "out") for name in line if "samples" in name]
    sampled = [
        {name: value for name, value in line.items() if "samples" not in name and name != "eval_seconds"}
        for line in evaluations(tmp_path / "sampled")
    ]
    assert sampled == [
        {name: value for name, value in line.items() if name != "eval_seconds"} for line in evaluations(tmp_path / "out")
    ]
    assert summary["dev"]["after"]["eval_rewards/margins"] != 0 == summary["dev"]["before"]["eval_rewards/margins"]


def test_a_sample_ends_with_its_end_token(tiny_model_dir: Path) -> None:
    model = load_model(tiny_model_dir)
    # A third of the vocabulary ends a completion.
    model.generation_config.eos_token_id = list(range(2, 34))
    samples = sample(model, prompts_to_sample(random_groups(5), 40), max_new_tokens=6, max_tokens=4096, seed=1, bf16=False)
    assert {each.is_terminated for each in samples} == {True, False}
    for each in samples:
        ends = [token in range(2, 34) for token in each.token_ids]
        assert not any(ends[:-1]) and ends[-1] == each.is_terminated
        assert each.is_terminated or len(each.token_ids) == 6
    assert [each.prompt_ids for each in samples[:5]] == [each.prompt_ids for each in samples[5:10]]


def test_sample_metrics_are_those_of_a_padded_computation(workplace: Path, tiny_model_dir: Path) -> None:
    policy, other = (AutoModelForCausalLM.from_pretrained(workplace / "model", dtype=torch.float32) for _ in range(2))
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.mul_(1.3)
    samples = [Sample((5, 6, 7), (10, 11), True), Sample((8,), (12, 13, 14, 15), False)]
    groups = [PromptGroup(str(i), each.prompt_ids, (Completion(each.token_ids, 1),)) for i, each in enumerate(samples)]
    with torch.no_grad():
        logratio = padded_logps(policy, groups) - padded_logps(other, groups)
        divergence = ((-logratio).exp() - 1 + logratio).sum()
        entropies = []
        for each in samples:
            logits = policy(torch.tensor([each.prompt_ids + each.token_ids])).logits[0]
            predicting = logits[len(each.prompt_ids) - 1 : -1].log_softmax(-1)
            entropies.append(-(predicting.exp() * predicting).sum(-1))
    packed = load_model(workplace / "model")
    reference = load_model(workplace / "model")
    with torch.no_grad():
        reference.model.layers[0].mlp.down_proj.weight.mul_(1.3)
    found = sample_metrics(samples, packed, nullcontext(reference), bf16=False).to_json()
    assert found["samples/kl"] == pytest.approx(float(divergence) / 2, abs=1e-4)
    assert found["samples/kl_per_token"] == pytest.approx(float(divergence) / 6, abs=1e-4)
    assert found["samples/entropy"] == pytest.approx(float(torch.cat(entropies).mean()), abs=1e-4)
    assert found["samples/tokens"] == 3 and found["samples/unterminated"] == 0.5
    assert sample_metrics(samples, packed, None, bf16=False).kl == 0


@pytest.mark.integration
def test_samples_are_compared_with_the_reference_that_was_cached(dev_workplace: Path, tmp_path: Path) -> None:
    """A later round: the training starts from other weights than the reference's."""
    model = AutoModelForCausalLM.from_pretrained(dev_workplace / "model", dtype=torch.float32)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.3)
    model.save_pretrained(tmp_path / "model")
    for name in ("groups", "reference_False"):
        (tmp_path / name).symlink_to(dev_workplace / name)
    with pytest.raises(ValueError, match=r"reference_model_dir must be the model that .*reference_False was made from"):
        run(tmp_path, tmp_path / "refused", check=False, **SMALL)
    run(tmp_path, tmp_path / "out", check=False, reference_model_dir=dev_workplace / "model", **SMALL, lora_r=2)
    first = evaluations(tmp_path / "out")[0]
    assert first["eval_samples/kl"] > 0 and first["eval_logps_shift/chosen"] != 0


def leaning_groups(num_groups: int, *, ends_are_preferred: bool, first: int = 0) -> list[PromptGroup]:
    """One side's completions hold end tokens (below 40), the other side's none."""
    groups = []
    for number in range(first, first + num_groups):
        ending = tuple(3 + (7 * number + 5 * place) % 37 for place in range(4))
        endless = tuple(40 + (11 * number + 3 * place) % 57 for place in range(4))
        sides = (ending, endless) if ends_are_preferred else (endless, ending)
        groups.append(
            PromptGroup(f"g{number}", (50 + number % 40, 60), (Completion(sides[0], 1), Completion(sides[1], -1)), ((0, 1),))
        )
    return groups


@pytest.fixture
def leaning_workplace(workplace: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The tiny model with 37 end tokens, which it says often; data that prefer them, or not."""
    folder = tmp_path / "leaning"
    model = AutoModelForCausalLM.from_pretrained(workplace / "model", dtype=torch.float32)
    model.generation_config.eos_token_id = list(range(3, 40))
    model.save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "model" / name).write_bytes((workplace / "model" / name).read_bytes())
    write_groups(folder / "groups", leaning_groups(24, ends_are_preferred=request.param))
    write_groups(folder / "groups" / DEV, leaning_groups(6, ends_are_preferred=request.param, first=24))
    cache_reference(
        folder / "model", folder / "groups", folder / "reference_False", max_tokens_per_row=48, bf16=False, progress=ignore
    )
    return folder


LEANING: dict[str, Any] = {"dev_prompts": 40, "dev_max_new_tokens": 16, "learning_rate": 1e-2, "num_train_epochs": 5}


@pytest.mark.parametrize("leaning_workplace", [False], indirect=True)
def test_samples_that_no_longer_end_stop_the_training(leaning_workplace: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingCollapsed,
        match=r"samples without an end within 16 tokens must stay under 10% or 3 times the \d.\d% before training, got [\d.]+% at "
        r"step \d+; check that preferred completions .* end-of-turn token .* lower learning_rate \(now 0.05\)",
    ):
        run(leaning_workplace, tmp_path / "out", **(LEANING | {"learning_rate": 0.05}), objective="sft")
    last = evaluations(tmp_path / "out")[-1]
    assert last["eval_samples/unterminated"] > 0.1 and not (tmp_path / "out" / "policy").exists()


@pytest.mark.integration
@pytest.mark.parametrize("leaning_workplace", [True], indirect=True)
def test_a_healthy_training_is_not_stopped(leaning_workplace: Path, tmp_path: Path) -> None:
    run(leaning_workplace, tmp_path / "out", **LEANING)
    first, *_, last = evaluations(tmp_path / "out")
    # It did learn, and moved far from the reference.
    assert last["eval_rewards/margins"] > 1 and last["eval_samples/kl"] > 0.5
    assert last["eval_samples/unterminated"] <= first["eval_samples/unterminated"]


@pytest.mark.integration
def test_preferred_completions_that_became_unlikely_stop_the_training(dev_workplace: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingCollapsed,
        match=r"dev preferred completions must stay within 1 nat per token of the reference, got -[\d.]+ at step \d+ and -[\d.]+ at "
        r"step \d+: .* lower learning_rate \(now 0.03\) or fewer steps, objective bnf",
    ):
        run(dev_workplace, tmp_path, **SMALL, objective="nll_signed", learning_rate=0.03, num_train_epochs=10)
    shifts = [line["eval_logps_shift/chosen"] for line in evaluations(tmp_path)]
    assert [shift < -1 for shift in shifts].count(True) == 2 and shifts[-1] < -1


def history(*values: tuple[float, float]) -> list[dict[str, float]]:
    return [
        {"step": step, "eval_logps_shift/chosen": shift, "eval_samples/unterminated": share, "eval_samples/number": 100}
        for step, (shift, share) in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "collapsed"),
    [
        ([(0, 0.0)], False),
        # Once is not enough, and twice is, with or without another between.
        ([(0, 0.0), (-1.2, 0.0)], False),
        ([(0, 0.0), (-1.2, 0.0), (-1.1, 0.0)], True),
        ([(0, 0.0), (-1.2, 0.0), (-0.9, 0.0)], False),
        ([(0, 0.0), (-1.2, 0.0), (-0.9, 0.0), (-1.01, 0.0)], True),
        ([(0, 0.0), (-1, 0.0), (-1, 0.0)], False),
        # Over 10 %, and over three times the base's.
        ([(0, 0.02), (0, 0.10)], False),
        ([(0, 0.02), (0, 0.11)], True),
        ([(0, 0.05), (0, 0.15)], False),
        ([(0, 0.05), (0, 0.16)], True),
        ([(0, 0.4), (0, 1.0)], False),
        ([(0, 0.0), (0, 0.2)], True),
    ],
)
def test_limits_of_a_collapse(values: list[tuple[float, float]], collapsed: bool) -> None:
    if collapsed:
        with pytest.raises(TrainingCollapsed):
            check_evaluations(history(*values), TrainConfig(**BASE))
    else:
        check_evaluations(history(*values), TrainConfig(**BASE))


@pytest.mark.parametrize(
    ("number", "before", "after", "collapsed"), [(4, 0, 1, False), (4, 0, 4, True), (20, 1, 4, False), (20, 1, 5, True)]
)
def test_a_few_samples_without_an_end_are_chance(number: int, before: int, after: int, collapsed: bool) -> None:
    values = history((0, before / number), (0, after / number))
    evaluated = [entry | {"eval_samples/number": number} for entry in values]
    if collapsed:
        with pytest.raises(TrainingCollapsed):
            check_evaluations(evaluated, TrainConfig(**BASE))
    else:
        check_evaluations(evaluated, TrainConfig(**BASE))


def test_the_reference_of_dev_groups_lies_beside(dev_workplace: Path) -> None:
    index = json.loads((dev_workplace / "reference_False" / DEV / "index.json").read_text())
    groups = read_groups(dev_workplace / "groups" / DEV)
    lengths = [len(completion.token_ids) for group in groups for completion in group.completions]
    assert index["num_completion_tokens"] == sum(lengths)
