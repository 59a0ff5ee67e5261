"""The report's first sentence, and its answers to: what did it gain, what did it cost, can it be believed?"""

from pathlib import Path
from typing import Any

import pytest

from evaluation.report.answer import Answer, answer
from evaluation.report.summary import summarize
from tests.unit.evaluation.report_folders import inputs, judged, scored, searched, trained


def answered(folder: Path, benchmarks: dict[str, tuple[str, str]], *, target: str | None = None, **more: Any) -> Answer:
    """The answer of a run with these outcomes of base and aligned model."""
    folders = {
        name: {
            model: scored(folder / name / model, outcomes) for model, outcomes in zip(("base", "aligned"), both, strict=False)
        }
        for name, both in benchmarks.items()
    }
    collected = inputs(folder, folders, **more)
    collected.recipe["train"] = {"objective": "bnf"}
    if target:
        collected.recipe["sample"] = {"source": target}
    return answer(summarize(collected))


def said(found: Answer, question: str) -> str:
    return " ".join(sentence for point in found.points if question in point.question for sentence in point.sentences)


UP = ("-" * 60 + "+" * 40, "+" * 95 + "-" * 5)
DOWN = UP[::-1]
STILL = ("+-" * 10, "+-" * 10)


def test_a_gain_on_the_target_and_noise_elsewhere(tmp_path: Path) -> None:
    found = answered(tmp_path, {"crux": STILL, "gsm8k": UP}, target="gsm8k")
    assert found.sentence.startswith("The model gained 55.0 points [+")
    assert (
        "on its target, gsm8k (40.0 → 95.0 %); crux shows no change beyond noise, where a loss of up to 16 points"
        in found.sentence
    )
    assert found.verdicts == [("gain", "1 gained"), ("none", "0 lost"), ("noise", "1 within noise")]
    assert "(the target)" in said(found, "gain")
    assert said(found, "cost").startswith(
        "No loss is shown. crux is within noise, which is no proof of no loss: the interval of crux"
    )
    assert "p < 0.001 after Holm's correction" in said(found, "believe")
    assert "one training with one seed" in said(found, "believe")


def test_a_loss_is_said_first_where_nothing_gains_and_beside_a_gain(tmp_path: Path) -> None:
    found = answered(tmp_path / "one", {"crux": UP, "gsm8k": DOWN})
    assert found.sentence.startswith("The model gained 55.0 points") and "; it lost 55.0 points" in found.sentence
    assert "gsm8k: 95.0 → 40.0 %, −55.0 points" in said(found, "cost")
    found = answered(tmp_path / "two", {"crux": DOWN})
    assert found.sentence.startswith("It gained nothing; it lost 55.0 points") and found.sentence.endswith("on crux.")
    assert said(found, "gain") == "No benchmark shows a gain."
    found = answered(tmp_path / "three", {"crux": DOWN, "gsm8k": UP}, target="crux")
    assert found.sentence.startswith("The model lost 55.0 points") and "it also gained 55.0 points" in found.sentence


def test_a_part_of_what_was_trained_on_is_a_target_too(tmp_path: Path) -> None:
    found = answered(tmp_path / "part", {"crux": STILL, "math_l5": UP}, target="math")
    assert "on its target, math_l5 (40.0 → 95.0 %)" in found.sentence and "(the target)" in said(found, "gain")
    found = answered(tmp_path / "both", {"math": UP, "math_l5": DOWN}, target="math")
    assert "on its target, math (40.0 → 95.0 %); it lost 55.0 points" in found.sentence
    assert "(a target)" in said(found, "gain") and "(a target)" in said(found, "cost")


def test_noise_alone_is_called_noise(tmp_path: Path) -> None:
    found = answered(tmp_path / "two", {"crux": STILL, "gsm8k": ("+" * 10, "+" * 9 + "-")}, target="gsm8k")
    assert found.sentence.startswith("No change on 2 benchmarks can be told from noise; the largest is −10.0 points [")
    assert "Nothing is shown that one could believe" in said(found, "believe")
    found = answered(tmp_path / "one", {"crux": STILL})
    assert found.sentence.startswith("The change on crux can't be told from noise: 0.0 points [")
    found = answered(tmp_path / "target", {"crux": UP, "gsm8k": STILL}, target="gsm8k")
    assert found.sentence.startswith("On its target, gsm8k, no change can be told from noise (0.0 points [")


def test_a_gain_of_format_is_called_one(tmp_path: Path) -> None:
    found = answered(tmp_path, {"crux": ("0" * 50 + "+" * 25 + "-" * 25, "+" * 80 + "-" * 20)})
    assert "Part of crux's gain is format: no answer 50.0 → 0.0 %; among answers that could be read 50.0 → 80.0 %." in said(
        found, "gain"
    )
    found = answered(tmp_path / "two", {"crux": UP})
    assert "format" not in said(found, "gain")


def test_what_stands_against_believing_it(tmp_path: Path) -> None:
    folders = {
        "gsm8k": {model: scored(tmp_path / model, "+-", source="sample", n_benchmark=1319) for model in ("base", "aligned")},
        "crux": {model: scored(tmp_path / f"c{model}", "+-", n_benchmark=800) for model in ("base", "aligned")},
        "math": {model: scored(tmp_path / f"m{model}", "+-", n_expected=4) for model in ("base", "aligned")},
    }
    judges = {"arena_hard": judged(tmp_path / "judge", [("A>B", "A>B")])}
    contamination = {"crux": searched(tmp_path / "found", "crux", exact=2, overlapping=1)}
    found = answer(summarize(inputs(tmp_path, folders, judges=judges, contamination=contamination)))
    assert [sentence for point in found.points if "believe" in point.question for sentence in point.sentences] == [
        "Nothing is shown that one could believe: every change is within noise.",
        "gsm8k is a sample: items of the project's own, and not the benchmark.",
        "crux: 2 of the benchmark's 800 items.",
        "math is partial: missing items count as wrong.",
        "crux: the training data hold, or overlap with, 3 of its 20 items.",
        "The judge of arena_hard (sample) is a demonstration: its verdicts mean nothing.",
    ]


@pytest.mark.parametrize("what", ["one model", "a judge", "training", "nothing"])
def test_where_nothing_is_compared_it_says_what_there_is(what: str, tmp_path: Path) -> None:
    benchmarks = {"crux": {"base": scored(tmp_path / "crux", "+-0")}} if what == "one model" else {}
    more: dict[str, Any] = {
        "a judge": {"judges": {"arena_hard": judged(tmp_path / "judge", [("A>B", "A>B")])}},
        "training": {"train": trained(tmp_path / "train")},
    }.get(what, {})
    found = answer(summarize(inputs(tmp_path, benchmarks, **more)))
    assert (
        found.sentence
        == {
            "one model": "The model scores 33.3 % [1.0, 99.0] on crux; there is no second model to compare it with.",
            "a judge": "The answers were judged: arena_hard (sample) by a-judge. No benchmark was scored.",
            "training": "The policy is trained; nothing was evaluated, so nothing is known of its gain or its cost.",
            "nothing": "Nothing was evaluated.",
        }[what]
    )
    assert found.verdicts == ()


def test_tasks_of_lm_eval_are_an_evaluation(tmp_path: Path) -> None:
    summary = summarize(inputs(tmp_path, {}, train=trained(tmp_path / "train")))
    found = answer({**summary, "lm_eval": {"hellaswag": {}, "arc_easy": {}}})
    assert found.sentence == "The models answered tasks of lm-eval: hellaswag and arc_easy. No benchmark was scored."


def test_a_policy_that_does_not_end_its_answers_is_doubted(tmp_path: Path) -> None:
    def believed(before: float, after: float) -> str:
        folders = {"gsm8k": {model: scored(tmp_path / model, "+-") for model in ("base", "aligned")}}
        summary = summarize(inputs(tmp_path, folders))
        ends = {
            when: {"eval_samples/unterminated": share, "eval_samples/number": 16}
            for when, share in (("before", before), ("after", after))
        }
        return said(answer({**summary, "train": {"dev": ends}}), "believe")

    assert "Of the policy's 16 dev samples 18.8 % don't end, and 0.0 % before the training." in believed(0.0, 0.1875)
    assert "don't end" not in believed(0.0, 0.0625) and "don't end" not in believed(0.5, 0.5)
    assert "don't end" not in believed(0.5, 0.0)
