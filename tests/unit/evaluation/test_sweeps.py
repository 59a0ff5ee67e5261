"""A sweep's comparison: who is compared with whom, over which items and seeds, what the page says first, and the tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest

from evaluation.paired import compare_scores, read_scores
from evaluation.report import tables
from evaluation.report.sweep_charts import Place, Shift, _decades, _front, pareto, shift_charts, shifts_of
from evaluation.report.sweep_results import _opponent, find_results
from evaluation.report.sweep_words import answer
from evaluation.report.sweeps import render, write
from evaluation.report.swept import PAGE, RESULTS, Candidate, Choice, FailedRun, SweepFacts, SweptRun
from evaluation.report.swept_scores import Setting
from tests.unit.evaluation.report_folders import scored, write_lines, write_object
from tests.unit.evaluation.test_report import Page

BASE = "-" * 60 + "+" * 40
BETTER = "+" * 50 + "-" * 10 + "+" * 40
SAME = BASE
WORSE = "-" * 60 + "+" * 10 + "-" * 30
FACTS = SweepFacts("s", "bnf sweep s.yaml", {"train.objective": ["bnf", "dpo"], "seed": [0, 1, 2]})


def swept(
    folder: Path,
    objective: str,
    seed: int,
    outcomes: Mapping[str, str],
    *,
    settings: Mapping[str, object] | None = None,
    source: str = "gsm8k",
    contents: Sequence[str] | None = None,
    **more: Any,
) -> SweptRun:
    """A run whose target is `gsm8k`; `outcomes` are the policy's by benchmark, and the base model's are BASE."""
    settings = {"train.objective": objective, **(settings or {})}
    name = " ".join(map(str, settings.values()))
    home = folder / f"{name}-{seed}".replace(" ", "-")
    scores = {}
    for benchmark, marks in outcomes.items():
        base = BASE[: len(marks)]
        scores[benchmark] = {
            model: scored(home / model / benchmark, found, contents=contents)[0]
            for model, found in (("base", base), ("aligned", marks))
        }
    write_object(home / "summary.json", {"recipe": {"data": {"source": source, "path": "x"}}})
    (home / "report.html").write_text("a report")
    write_object(
        home / "train" / "train_summary.json", {"steps": 4, "seconds": 2.0, "dev": {"after": {"eval_samples/kl": 0.5 + seed}}}
    )
    shift = {"eval_loss": 1.0, "eval_logps/chosen": -1.0, "eval_logps/rejected": -2.0}
    write_lines(
        home / "train" / "metrics.jsonl", [{"step": step, **shift, "eval_logps/rejected": -2 - step} for step in (0, 2, 4)]
    )
    given = {"scores": scores, "train": home / "train", "dev": {"eval_accuracy": 0.5 + 0.1 * seed}}
    return SweptRun(f"run-{home.name}", name, {**settings, "seed": seed}, objective, seed, home, **{**given, **more})


def three(folder: Path, objective: str, outcomes: Mapping[str, str], **more: Any) -> list[SweptRun]:
    return [swept(folder, objective, seed, outcomes, **more) for seed in range(3)]


def said(runs: Sequence[SweptRun], facts: SweepFacts = FACTS) -> tuple[str, str]:
    """The page's first sentence, and all that stands under it."""
    found = answer(find_results(runs, facts), facts)
    return found.sentence, " ".join(sentence for point in found.points for sentence in point.sentences)


def test_where_bnf_loses_is_said_first(tmp_path: Path) -> None:
    runs = [
        *three(tmp_path, "bnf", {"gsm8k": SAME, "crux": SAME}),
        *three(tmp_path, "dpo", {"gsm8k": BETTER, "crux": SAME}),
        *three(tmp_path, "sft", {"gsm8k": SAME, "crux": WORSE}),
    ]
    sentence, _ = said(runs)
    assert sentence.startswith("bnf loses to dpo (+50.0 [") and "points of gain); it beats sft (−30.0 [" in sentence
    results = find_results(runs, FACTS)
    bnf, dpo, sft = results.rows
    assert bnf.against is None and dpo.against.title == sft.against.title == "bnf"
    assert (dpo.gain.mean, dpo.tax.mean, sft.gain.mean, sft.tax.mean) == (50, 0, 0, -30)
    assert (dpo.against.gain.verdict, dpo.against.tax.verdict) == ("gain", "noise")
    assert (sft.against.gain.verdict, sft.against.tax.verdict) == ("noise", "loss")
    # Holm's correction is over the four comparisons between settings.
    assert results.num_compared == 4 and dpo.against.gain.p_holm == pytest.approx(4 * dpo.against.gain.of.p, abs=1e-9)
    assert (dpo.length.mean, dpo.base_length) == (10, 10)
    assert (dpo.kl.mean, dpo.kl.num_seeds) == (pytest.approx(1.5), 3)
    # BNF's own loss against the base model is one too.
    assert said(three(tmp_path / "b", "bnf", {"crux": WORSE}))[1].startswith("bnf loses 30.0 points")
    both = [*three(tmp_path / "c", "bnf", {"crux": WORSE}), *three(tmp_path / "c", "dpo", {"crux": WORSE})]
    assert said(both)[0].startswith("bnf loses 30.0 points [")


def test_a_lead_within_noise_is_said_too(tmp_path: Path) -> None:
    ahead = BASE[:59] + "+" + BASE[60:]
    sentence, rest = said([*three(tmp_path, "bnf", {"gsm8k": SAME}), *three(tmp_path, "dpo", {"gsm8k": ahead})])
    assert sentence.startswith("No setting can be told from bnf in gain or tax; the largest difference is dpo's +1.0 [")
    assert "Ahead of it within noise: dpo (+1.0 [" in rest
    alike = [*three(tmp_path / "b", "bnf", {"gsm8k": SAME}), *three(tmp_path / "b", "dpo", {"gsm8k": SAME})]
    assert said(alike)[0] == "No setting can be told from bnf in gain or tax: every difference is 0."


def test_a_loss_that_only_the_correction_leaves_open_is_said_first(tmp_path: Path) -> None:
    runs = three(tmp_path, "bnf", {"gsm8k": SAME})
    for objective, right in (("dpo", (8, 14, 17)), ("kto", (0, 0, 0)), ("sft", (0, 0, 0)), ("topr", (0, 0, 0))):
        runs += [swept(tmp_path, objective, seed, {"gsm8k": "+" * count + BASE[count:]}) for seed, count in enumerate(right)]
    dpo = find_results(runs, FACTS).rows[1].against.gain
    assert dpo.of.p < 0.05 <= dpo.p_holm and dpo.verdict == "noise"
    assert said(runs)[0].startswith("bnf is behind dpo (+13.0 [")
    assert "though Holm's correction leaves this open" in said(runs)[0]


def test_settings_are_compared_with_bnf_at_the_same_other_settings(tmp_path: Path) -> None:
    runs = [
        swept(tmp_path, objective, 0, {"gsm8k": SAME}, settings={"prepare.flip_fraction": noise, "train.learning_rate": rate})
        for objective, rate in (("bnf", 1e-6), ("dpo", 1e-5))
        for noise in (0.0, 0.2)
    ]
    facts = replace(FACTS, by="eval_accuracy", over=["train.learning_rate"])
    results = find_results(runs, facts)
    assert [row.against and row.against.title for row in results.rows] == [None, None, "bnf 0.0 1e-06", "bnf 0.2 1e-06"]
    # Without BNF, or with nothing else, the first is the one to compare with.
    others = find_results(runs[2:], facts)
    assert [row.against and row.against.title for row in others.rows] == [None, "dpo 0.0 1e-05"]
    assert [row.against is None for row in find_results(runs[:2], facts).rows] == [True, False]


def test_one_seed_says_so_and_several_without_each_other_are_paired_on_the_common_ones(tmp_path: Path) -> None:
    alone = [swept(tmp_path, "bnf", 0, {"gsm8k": SAME}), swept(tmp_path, "dpo", 0, {"gsm8k": BETTER})]
    assert "one seed: intervals are over items alone" in said(alone)[1]
    runs = [*three(tmp_path, "bnf", {"gsm8k": SAME}), swept(tmp_path, "dpo", 1, {"gsm8k": BETTER})]
    (_, dpo), rest = find_results(runs, FACTS).rows, said(runs)[1]
    assert list(dpo.against.seeds) == [1] and dpo.against.gain.of.num_seeds == 1
    assert "different numbers of seeds (bnf 3, dpo 1); differences are over the seeds that both have" in rest
    apart = [swept(tmp_path, "bnf", 0, {"gsm8k": SAME}), swept(tmp_path, "dpo", 1, {"gsm8k": BETTER})]
    assert find_results(apart, FACTS).rows[1].against.gain is None
    assert said(apart)[0] == "Nothing can be compared with bnf: the others have other targets, or no seed in common with it."
    assert said(apart[:1])[0].startswith("bnf alone: 0.0 [")


def test_items_that_a_run_lacks_are_left_out_of_all(tmp_path: Path) -> None:
    runs = [
        swept(tmp_path, "bnf", 0, {"gsm8k": SAME, "crux": SAME}),
        swept(tmp_path, "bnf", 1, {"gsm8k": SAME[:97]}),
        # The same items in another order: they are paired by what they ask.
        swept(tmp_path, "dpo", 0, {"gsm8k": BETTER}, contents=[f"i{number}" for number in reversed(range(100))]),
    ]
    results = find_results(runs, FACTS)
    assert results.rows[0].gain.num_items == 97 and list(results.scores.labels) == ["gsm8k"]
    notes = " ".join(results.scores.notes)
    assert "gsm8k: everything is over the 97 items that all runs have, of 100: run-bnf-1 lacks some." in notes
    assert "run-bnf-1 has no scores of both models on crux, which is left out." in notes
    # dpo has the items 99 to 50 right that were wrong, less three that are not shared.
    changes = results.rows[1].setting.scores[0]["gsm8k"].changes
    assert sum(change == 1 for change in changes) == 47 and changes[0] == 0 and changes[-1] == 1


def test_without_a_target_all_is_tax_and_other_targets_are_not_compared(tmp_path: Path) -> None:
    found = find_results(three(tmp_path, "bnf", {"gsm8k": SAME}, source="pairs"), FACTS)
    assert found.rows[0].gain is None and found.rows[0].tax.mean == 0
    assert "No benchmark is a target" in said(three(tmp_path / "b", "bnf", {"gsm8k": SAME}, source="pairs"))[1]
    other = [*three(tmp_path, "bnf", {"gsm8k": SAME}), *three(tmp_path, "dpo", {"gsm8k": SAME}, source="crux")]
    assert find_results(other, FACTS).rows[1].against.gain is None


def test_the_files(tmp_path: Path) -> None:
    lr = {"train.learning_rate": 1e-5}
    runs = [
        *three(tmp_path / "runs", "bnf", {"gsm8k": SAME, "crux": SAME}, settings=lr, num_settings=2),
        *three(tmp_path / "runs", "dpo", {"gsm8k": BETTER, "crux": SAME}, settings=lr, num_settings=6),
        swept(tmp_path / "runs", "dpo", 0, {}, settings={"train.learning_rate": 2e-5}, is_chosen=False),
    ]
    (runs[-1].folder / "report.html").unlink()
    hostile = "<script>alert(1)</script>\u202e"
    facts = replace(
        FACTS,
        name=hostile,
        by="eval_accuracy",
        over=["train.learning_rate"],
        choices=[
            Choice(
                "dpo", lr, [Candidate(lr, {0: 0.5, 1: 0.75}, 0.625), Candidate({"train.learning_rate": 2e-5}, {0: 0.5}, 0.5)]
            )
        ],
        failed=[FailedRun("orpo", {"seed": 1}, f"the loss is nan {hostile}")],
    )
    folder = tmp_path / "sweeps" / "s"
    write(runs, folder, facts)
    html = (folder / PAGE).read_text()
    page = Page(html)
    text = " ".join(page.text.split())
    assert "<script" not in html and "⟨U+202E⟩" in text and not {"script", "img", "link"} & set(page.tags) and not page.open
    links = [value for tag, name, value in page.attributes if tag == "a" and name == "href"]
    reports = [link for link in links if link.endswith("report.html")]
    assert len(reports) == 6 and all((folder / link).resolve().is_file() for link in reports)
    assert {RESULTS, tables.PARQUET, tables.LATEX} <= set(links) and all(
        (folder / name).is_file() for name in links if name[0] == "r"
    )
    assert "were not tuned over equally many settings: bnf 2, dpo 6" in text and "chosen" in text and "trained only" in text
    assert "1 run has no result and counts nowhere" in text and "mean dev accuracy" in text
    assert "6 compared, 1 trained to choose from, 1 without a result" in text
    undecided = replace(facts, failed=[FailedRun("dpo", {}, "no dev figure", runs[-1].run)])
    assert "6 compared, 1 without a result" in render(runs, folder, undecided)
    assert html.count('role="img"') == 3, "gain against tax, and the likelihoods of two settings"
    # The same runs give the same bytes.
    before = html
    write(runs, folder, facts)
    assert (folder / PAGE).read_text() == before and [path.name for path in folder.glob("*.partial")] == []

    frame = tables.load(folder)
    assert set(frame.query("not is_chosen").benchmark) == {"dev", "training"}
    deltas = frame.query("metric == 'delta' and is_target").set_index(["objective", "seed"]).value
    assert deltas["dpo", 2] == 50 and deltas["bnf", 0] == 0 and len(deltas) == 6
    first = frame.query("metric == 'delta' and benchmark == 'gsm8k' and objective == 'dpo'").iloc[0]
    models = runs[3].scores["gsm8k"]
    assert [first.ci_low, first.ci_high] == compare_scores(read_scores(models["base"]), read_scores(models["aligned"]))[
        "delta_ci"
    ]
    row = frame.query("metric == 'accuracy' and benchmark == 'gsm8k' and objective == 'dpo'").iloc[0]
    assert (row.value, row.ci_low, row.ci_high, row.n, row.num_settings, row["train.learning_rate"]) == (
        90,
        1,
        99,
        100,
        6,
        1e-5,
    )
    assert frame.query("metric == 'kl'").value.tolist() == [0.5, 1.5, 2.5, 0.5, 1.5, 2.5, 0.5]
    pandas.testing.assert_frame_equal(
        pandas.read_csv(folder / RESULTS)[["run", "value"]], frame[["run", "value"]], check_dtype=False
    )
    assert (folder / tables.LATEX).read_text().startswith("\\begin{longtable}")
    assert len(tables.load([folder, str(folder)])) == 2 * len(frame)
    with pytest.raises(FileNotFoundError, match=r"folders must be those of sweeps, got .*without results\.parquet"):
        tables.load(tmp_path)


def test_a_sweep_without_any_result_has_its_files(tmp_path: Path) -> None:
    write([], tmp_path, replace(FACTS, failed=[FailedRun("bnf", {}, "out of memory")]))
    assert "No run of s was evaluated" in (tmp_path / PAGE).read_text() and tables.load(tmp_path).empty
    only = swept(tmp_path / "runs", "bnf", 0, {}, is_chosen=False)
    write([only], tmp_path, FACTS)
    assert tables.load(tmp_path).metric.tolist() == [
        *("eval_accuracy", "kl", "steps", "seconds", "chosen_shift", "rejected_shift", "collapsed")
    ]


def test_settings_of_several_types_are_text(tmp_path: Path) -> None:
    runs = [swept(tmp_path, "bnf", 0, {}, settings={"x": value}) for value in (1, "two", [3])]
    assert tables.results(runs, "s").groupby("run").x.first().sort_values().tolist() == ["1", "[3]", "two"]


def test_curves_begin_at_zero_and_share_their_axes(tmp_path: Path) -> None:
    runs = three(tmp_path, "bnf", {"gsm8k": SAME})
    found = shifts_of("bnf", runs)
    assert found.lines["dispreferred"] == [[(0, 0), (2, -2), (4, -4)]] * 3 and found.lines["preferred"][0][-1] == (4, 0)
    # Without a dev set: what was logged of the batches.
    write_lines(tmp_path / "train" / "metrics.jsonl", [{"step": step, "logps_shift/chosen": 0.1 * step} for step in (1, 2)])
    batches = shifts_of("sft", [replace(runs[0], train=tmp_path / "train")])
    assert batches.lines == {"preferred": [[(1, 0.1), (2, 0.2)]], "dispreferred": []}
    ticks = [chart.split("nats per token")[0].split(">0<")[0] for _, chart in shift_charts([found, batches])]
    assert len(ticks) == 2 and "mathdefault" not in "".join(ticks)
    assert shifts_of("none", [replace(runs[0], train=None)]) is None and shift_charts([]) == []


def test_where_the_mean_over_seeds_ends_early_the_chart_says_so() -> None:
    long, short = [(0.0, 0.0), (2.0, 0.5), (4.0, 1.0)], [(0.0, 0.0), (2.0, 0.7)]

    def name(*lines: list[tuple[float, float]]) -> str:
        return shift_charts([Shift("dpo", {"preferred": list(lines), "dispreferred": []})])[0][0]

    assert name(long, long) == "dpo"
    assert name(long, short, long) == "dpo; the mean ends at step 2, as 1 of 3 seeds end early"
    assert name([(1.0, 0.0)], [(2.0, 0.0)]) == "dpo; no step has all 2 seeds, and the mean is of those that have it"


def test_an_axis_that_is_logarithmic_on_both_sides_has_powers_of_ten() -> None:
    assert _decades(0.05, 12) == pytest.approx([-10, -1, -0.1, 0, 0.1, 1, 10])


def test_the_front_has_those_that_none_surpasses_in_both() -> None:
    places = [
        Place(name, gain, None, tax, None, 1) for name, gain, tax in (("a", 5, -3), ("b", 3, 0), ("c", 2, -1), ("d", 5, -4))
    ]
    assert [one.name for one in _front(places)] == ["b", "a"]


def test_twenty_settings_are_told_apart_without_their_colours() -> None:
    """In grey print the shape of a point, and whether it is filled, are all there is."""
    drawn = str(pareto([Place(f"setting {n}", 3.0 * n, None, float(n % 5), None, n) for n in range(20)]))
    shapes = dict(re.findall(r'<path id="(m\w+)" d="([^"]*)"', drawn))
    points = re.findall(r'<use href="#(m\w+)" [^>]*style="fill: var\(--((?:aligned|ground|series-\d))\)', drawn)
    assert len(points) == 20 and len({(shapes[id], fill == "ground") for id, fill in points}) == 20
    assert all(f">setting {n}</text>" in drawn for n in range(20)), "and each has its name beside it"


def test_a_variant_is_compared_with_bnf_at_what_the_variant_sets(tmp_path: Path) -> None:
    variants = {
        "bnf-clean": {"train.objective": "bnf", "prepare.flip_fraction": 0},
        "bnf-noisy": {"train.objective": "bnf", "prepare.flip_fraction": 0.4},
        "dpo-noisy": {"train.objective": "dpo", "train.objective_options.beta": 0.2, "prepare.flip_fraction": 0.4},
    }
    settings = [
        Setting(name, {0: SweptRun(name, name, {"variant": name}, str(sets["train.objective"]), 0, tmp_path)}, {}, frozenset())
        for name, sets in variants.items()
    ]
    facts = SweepFacts("s", "bnf sweep s.yaml", {"variant": list(variants)}, variants=variants)
    opponent = _opponent(settings[2], settings, facts)
    assert opponent is not None and opponent.name == "bnf-noisy"


def test_a_setting_alone_has_no_empty_columns_and_no_comparison(tmp_path: Path) -> None:
    write(three(tmp_path / "runs", "bnf", {"gsm8k": BETTER, "crux": SAME}), tmp_path, FACTS)
    html = (tmp_path / PAGE).read_text()
    text = " ".join(Page(html).text.split())
    assert re.search(
        r"bnf alone: \+50\.0 \[[^]]+\] points of gain and 0\.0 \[[^]]+\] points of tax against the base model\.", text
    )
    assert "less bnf" not in text and "between settings" not in text and "surpassed by none" not in text
    assert html.count('role="img"') == 1, "the likelihood: of a point alone no chart is drawn"
