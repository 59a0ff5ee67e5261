"""The results of a study in tables, its figure, and its page, docs/results/NAME.md."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.crossed import seeds_interval
from flows.commands.study_files import paragraph, table, write_page
from tasks.execute import machine

if TYPE_CHECKING:
    from torch import Tensor

    from bnf.studies.simulation import Curves, Problem

_SEEDS = range(20)
_STEPS = 300
# Pairs whose speed is compared: who is said to be faster, at whom, what the pair differs in. Each on both kinds of samples.
_PAIRS = (
    ("BNF", "BNF without negatives", "negative gradient, same labels"),
    ("BNF", "preferred FT", "negative gradient, same labels"),
    ("TOPR", "preferred FT", "negative gradient, same labels"),
    ("DPO", "preferred FT", "negative gradient, pairs"),
    ("IPO", "preferred FT", "negative gradient, pairs"),
    ("REINFORCE", "REINFORCE without negatives", "negative gradient, same advantages"),
    ("BNF", "TOPR", "BNF and its nearest relative"),
    ("BNF", "DPO", "BNF and DPO"),
    ("BNF", "REINFORCE", "BNF and REINFORCE"),
    ("BNF", "best of 8", "BNF and best of 8"),
)
# Setting: the problem's name, and the kind of samples.
Setting = tuple[str, str]


@dataclass(frozen=True)
class Study:
    """What a study's page says of itself.

    Attributes:
        about: its first sentences.
        question: what it asks.
        changed: what was changed after the first results, and why.
        design: the policy and its rewards, with each problem's name in braces for the reference's mass on its peak.
        peak: what counts as the peak.
    """

    name: str
    title: str
    about: Sequence[str]
    question: Sequence[str]
    changed: Sequence[str]
    design: Sequence[str]
    peak: str

    def problems(self) -> Mapping[str, Problem]:
        """By name; torch is imported for them."""
        from bnf.studies import bandit, length

        return bandit.PROBLEMS if self.name == "bandit" else length.PROBLEMS


_PAPER = "[arXiv 2404.14367](https://arxiv.org/abs/2404.14367)"
STUDIES = {
    "bandit": Study(
        "bandit",
        "The bandit",
        (
            f"What an objective does to a policy that has nothing to generalise with: the didactic problem of {_PAPER}, on the",
            "objectives' own files. `bnf study bandit --write-page` writes this page.",
        ),
        (
            "Does a policy find the best of 100 tokens faster with samples of its own (on-policy), and with an objective that",
            "pushes samples down (a negative gradient), than by maximum likelihood on good samples of the reference?",
        ),
        (
            "It was fixed before the results, but for two things that the first run showed to be wrong: a rare peak that the",
            "reference gives with a probability of 0.0007 is never sampled and tells nothing apart, so it was moved nearer;",
            "and samples as good as the median were labelled dispreferred, so that a policy which always gives the best token",
            "was pushed away from it.",
        ),
        (
            "- A softmax over 100 free logits, from a reference around token 25. The reward falls off on both sides of one",
            "token. To it and the two on either side the reference gives {likely:.3f} (likely) or {rare:.3f} (rare).",
        ),
        "five tokens",
    ),
    "length": Study(
        "length",
        "Reward by length",
        (
            f"What an objective does to a policy that only decides when to stop: the length problems of {_PAPER}, on the",
            "objectives' own files. `bnf study length --write-page` writes this page.",
        ),
        (
            "Does a policy find the best length faster with samples of its own (on-policy), and with an objective that pushes",
            "samples down (a negative gradient), where the best is the shortest, the reference's usual length, or one that it",
            "rarely has?",
        ),
        (
            "It was fixed before the results, but for one thing: a best length of 25 has so little mass that nothing reaches",
            "it off-policy, so it was moved to 21.",
        ),
        (
            "- A logit of stopping at each of 40 positions, from a reference that usually stops after 14 tokens. The reward",
            "falls off on both sides of one length. To it and its neighbours the reference gives {min:.4f} (min: 1),",
            "{mode:.3f} (mode: 15) or {skew:.4f} (skew: 21).",
        ),
        "the best length and those next to it",
    ),
}


@dataclass(frozen=True)
class Comparison:
    """How much faster one side was than the other: the difference of the mass on the peak, averaged over all steps, by seed.

    Attributes:
        interval: of the mean difference, 95 %, by Student's t over the seeds.
        seeds: in how many seeds the first was faster.
    """

    first: str
    second: str
    what: str
    mean: float
    interval: tuple[float, float]
    seeds: int

    @property
    def verdict(self) -> str:
        low, high = self.interval
        return "faster" if low > 0 else "slower" if high < 0 else "no difference"

    def row(self) -> dict[str, str]:
        low, high = self.interval
        return {
            "first": self.first,
            "against": self.second,
            "differ in": self.what,
            "mass": f"{self.mean:+.3f} [{low:+.3f}, {high:+.3f}]",
            "seeds": f"{self.seeds}/{len(_SEEDS)}",
            "first is": self.verdict,
        }


@dataclass(frozen=True)
class Results:
    """The curves of every method in every setting, and how long they took."""

    study: Study
    curves: Mapping[Setting, Mapping[str, Curves]]
    seconds: float

    def problem_name(self, problem: str) -> str:
        """In words."""
        return f"{problem} peak" if self.study.name == "bandit" else f"{problem} length"

    def tables(self) -> list[tuple[str, list[dict[str, str]]]]:
        """For each setting its title and a row for each method, the fastest first."""
        found = []
        for (peak, sampler), methods in self.curves.items():
            ordered = sorted(methods.items(), key=lambda entry: -_speed(entry[1]).mean())
            found.append((f"{self.problem_name(peak)}, {sampler}", [_row(name, curves) for name, curves in ordered]))
        return found

    def comparisons(self) -> list[Comparison]:
        """On-policy against off-policy for every method, and the pairs."""
        found = []
        for peak in dict.fromkeys(peak for peak, _ in self.curves):
            off, on = (self.curves[peak, sampler] for sampler in ("off-policy", "on-policy"))
            found += [_compared(f"{name} ({peak}, on-policy)", "off-policy", "who sampled", on[name], off[name]) for name in on]
        for (peak, sampler), methods in self.curves.items():
            found += [
                _compared(f"{first} ({peak}, {sampler})", second, what, methods[first], methods[second])
                for first, second, what in _PAIRS
            ]
        return found

    def comparison_rows(self) -> list[dict[str, str]]:
        return [comparison.row() for comparison in self.comparisons()]

    def to_json(self) -> dict[str, object]:
        return {
            "seeds": len(_SEEDS),
            "steps": _STEPS,
            "seconds": round(self.seconds, 1),
            "settings": {title: rows for title, rows in self.tables()},
            "comparisons": self.comparison_rows(),
        }


def run(name: str) -> Results:
    """Every method in every setting of a study, over twenty seeds."""
    import torch

    from bnf.studies.simulation import METHODS, SAMPLERS, simulate

    # Of tensors this small threads take more than they give.
    torch.set_num_threads(1)
    started = time.monotonic()
    study = STUDIES[name]
    curves: dict[Setting, dict[str, Curves]] = {
        (problem, sampler): {method: simulate(own, place, sampler, _SEEDS, _STEPS) for method, own in METHODS.items()}
        for problem, place in study.problems().items()
        for sampler in SAMPLERS
    }
    return Results(study, curves, time.monotonic() - started)


def write(results: Results, docs: Path) -> list[Path]:
    """Writes page and figure; returns their paths."""
    return write_page(docs, results.study.name, _page(results), lambda path: _draw(results, path))


def _speed(curves: Curves) -> Tensor:
    """The mass on the peak, averaged over the steps. (seeds,)"""
    return curves.mass.mean(0)


def _row(name: str, curves: Curves) -> dict[str, str]:
    half, interval = curves.mass >= 0.5, _interval(_speed(curves))
    arrived = sorted(int(own.nonzero()[0, 0]) for own in half.T if own.any())
    # Of all seeds: those that never arrive are the last.
    median = arrived[len(_SEEDS) // 2] if len(arrived) > len(_SEEDS) // 2 else None
    return {
        "method": name,
        "mass over all steps": f"{float(_speed(curves).mean()):.3f} [{interval[0]:.3f}, {interval[1]:.3f}]",
        "mass at the end": f"{float(curves.mass[-1].mean()):.3f}",
        "steps to mass 0.5": "never" if median is None else str(median),
        "seeds that end there": f"{int((curves.mass[-1] >= 0.5).sum())}/{len(_SEEDS)}",
        "reward": f"{float(curves.reward[-1].mean()):.3f}",
        "KL": f"{float(curves.kl[-1].mean()):.2f}",
        "reverse KL": f"{float(curves.reverse_kl[-1].mean()):.2f}",
    }


def _compared(first: str, second: str, what: str, one: Curves, other: Curves) -> Comparison:
    differences = _speed(one) - _speed(other)
    return Comparison(first, second, what, float(differences.mean()), _interval(differences), int((differences > 0).sum()))


def _interval(values: Tensor) -> tuple[float, float]:
    found = seeds_interval(values.tolist())
    assert found is not None, "a study has several seeds"
    return found


def _draw(results: Results, path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    from bnf.studies.simulation import LIKELIHOOD, METHODS

    columns = {"mass": "mass on the peak", "reward": "reward", "kl": "KL(policy, reference)", "reverse_kl": "reverse KL"}
    colors = pyplot.get_cmap("tab20").colors  # type: ignore[attr-defined]
    steps = range(0, _STEPS + 1, 10 if _STEPS >= 100 else 1)
    with matplotlib.rc_context({"svg.hashsalt": results.study.name, "svg.fonttype": "none", "font.size": 9}):
        figure, panels = pyplot.subplots(
            len(results.curves), len(columns), figsize=(13, 0.5 + 2.75 * len(results.curves)), layout="constrained"
        )
        for panel_row, ((peak, sampler), methods) in zip(panels, results.curves.items(), strict=True):
            for panel, (key, title) in zip(panel_row, columns.items(), strict=True):
                for place, name in enumerate(METHODS):
                    values = getattr(methods[name], key).mean(1)
                    style = "--" if name in LIKELIHOOD else "-"
                    width = 2.6 if name == "BNF" else 1.3
                    # tab20 has each colour dark and light: dark ones first.
                    color = "black" if name == "BNF" else colors[(2 * place) % 20 + (2 * place) // 20]
                    panel.plot(steps, values[steps], style, color=color, linewidth=width, label=name)
                panel.set_title(f"{results.problem_name(peak)}, {sampler}: {title}", fontsize=9)
                panel.spines[["top", "right"]].set_visible(False)
                panel.set_xlabel("step")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _page(results: Results) -> str:
    from bnf.studies.simulation import NUM_PROMPTS, NUM_SAMPLES

    study, host = results.study, machine()
    around = {
        problem: float(place.outcome_logps(place.start[None]).exp()[0, place.peak].sum())
        for problem, place in study.problems().items()
    }
    lines = [
        *(f"# {study.title}", ""),
        *(paragraph(study.about), ""),
        *_losses_of_bnf(results),
        *("## The question", "", paragraph(study.question), ""),
        *("## The design", "", paragraph(study.changed), ""),
        paragraph(study.design).format(**around),
        f"- {_STEPS} steps, in each {NUM_PROMPTS} prompts with {NUM_SAMPLES} samples. On-policy they are drawn from the policy before",
        "  the step, off-policy all from the reference; as many in both. A prompt's better half is preferred, the other dispreferred, its",
        "  best and worst sample are the pair; policy-gradient objectives take the rewards. The losses' reference stays the first policy.",
        "- Adam at one learning rate for all, untuned; the options' defaults, but RWR's temperature of 0.1.",
        f"- {len(_SEEDS)} seeds, with the same random numbers for every method. On-policy PPO is REINFORCE: its samples are new at",
        "  every step, and the ratio is 1.",
        f"- Speed is the mass on the peak ({study.peak}), averaged over all steps. Differences are paired by seed;",
        "  intervals are Student's, 95 %, not corrected for their number.",
        "- Steps to mass 0.5 are the median of all seeds; a seed that never gets there counts as the slowest.",
        "",
        f"![Mass on the peak, reward, KL and reverse KL over the steps](../images/{study.name}.svg)",
        "",
        "Dashed: no negative gradient. Mean over the seeds.",
        "",
        "## What holds, and what doesn't",
        "",
        *_reading(results),
        "",
        "## The numbers",
        "",
    ]
    for title, rows in results.tables():
        lines += [f"### {title[0].upper()}{title[1:]}", "", *table(rows), ""]
    lines += ["### Compared", "", *table(results.comparison_rows()), ""]
    lines += [
        f"`bnf study {study.name} --write-page`: {results.seconds:.0f} seconds on {host['cpu']}, {date.today().isoformat()}.",
        "",
    ]
    return "\n".join(lines)


def _losses_of_bnf(results: Results) -> list[str]:
    """Where BNF lost, which stands first."""
    lines = []
    for (peak, sampler), methods in results.curves.items():
        faster = [name for name in methods if _speed(methods[name]).mean() > _speed(methods["BNF"]).mean()]
        astray = int((methods["BNF"].mass[-1] < 0.5).sum())
        more = f"; {astray} of {len(_SEEDS)} seeds ended away from the peak" if sampler == "on-policy" and astray else ""
        setting = f"{results.problem_name(peak)}, {sampler}"
        lines.append(f"- {setting}: {len(faster)} of {len(methods) - 1} others were faster ({', '.join(faster)}){more}.")
    return ["**Where BNF loses**, in the mean of the seeds ([Compared](#compared) has intervals):", "", *lines, ""]


def _reading(results: Results) -> list[str]:
    """The two claims, setting by setting, in the words of the intervals."""
    lines = []
    compared = results.comparisons()
    for peak in dict.fromkeys(peak for peak, _ in results.curves):
        own = [each for each in compared if each.what == "who sampled" and f"({peak}," in each.first]
        lines.append(f"- On-policy samples, {results.problem_name(peak)}: faster for {_counted(own)}.")
    for peak, sampler in results.curves:
        own = [each for each in compared if each.what.startswith("negative") and f"({peak}, {sampler})" in each.first]
        lines.append(f"- A negative gradient, {results.problem_name(peak)}, {sampler}: faster for {_counted(own)}.")
    return lines


def _counted(compared: Sequence[Comparison]) -> str:
    verdicts = {
        verdict: [each for each in compared if each.verdict == verdict] for verdict in ("faster", "slower", "no difference")
    }

    def names(found: Sequence[Comparison]) -> str:
        # Two of BNF's are told apart by whom they are compared with.
        return ", ".join(
            each.first.partition(" (")[0] + ("" if each.what == "who sampled" else f" against {each.second}") for each in found
        )

    text = f"{len(verdicts['faster'])} of {len(compared)}"
    text += f" ({names(verdicts['faster'])})" if 0 < len(verdicts["faster"]) < len(compared) else ""
    text += "".join(f"; {verdict}: {names(found)}" for verdict, found in verdicts.items() if verdict != "faster" and found)
    return text
