"""CHES scores in the report and in the terminal: quantiles, the highest pairs with their texts, and what became of them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.report.ches import ches_notes, ches_rows, highest_rows, scored_by, summarize_ches
from evaluation.report.summary import summarize
from flows.commands.showing import show_run
from tasks.keys import Ingredients
from tasks.nodes import Node
from tasks.store import Store
from tests.unit.evaluation.report_folders import inputs, prepared, write_lines
from tests.unit.evaluation.test_report import HOSTILE, built
from tests.unit.flows.run_folders import run_of

# 21 pairs of as many prompts: means of −20 … 0, sums in another order.
MEANS = [-float((8 * number) % 21) for number in range(21)]


def scored(folder: Path, means: list[Any] = MEANS) -> Path:
    """The folder of a reference stage."""
    lines = [
        {"group": f"g{number}", "chosen": 0, "rejected": 1, "ches": None if mean is None else 3.0 - number, "mean_ches": mean}
        for number, mean in enumerate(means)
    ]
    write_lines(folder / "ches.jsonl", lines)
    return folder


def moved(folder: Path, shifts: list[Any], means: list[Any] = MEANS) -> Path:
    """The folder of an analyze stage; sums move as far as there are tokens, 2 each."""
    scores = [json.loads(line) for line in (scored(folder, means) / "ches.jsonl").read_text().splitlines()]
    lines = [
        {**score, "shift": None if shift is None else 2 * shift, "mean_shift": shift}
        for score, shift in zip(scores, shifts, strict=True)
    ]
    write_lines(folder / "pair_shifts.jsonl", lines)
    return folder


def with_texts(folder: Path) -> Path:
    """The folder of a prepare stage with texts. Ids that begin alike, quotes and foreign letters are told apart."""
    others = [{"text": "another"}] * 2
    lines = [
        {
            "id": id,
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": f"question of {id}"}],
            "completions": [{"text": f"good of {id}"}, {"text": {"role": "assistant", "content": HOSTILE}}, *others],
        }
        for id in [*(f"g{number}" for number in range(21)), 'q"é']
    ]
    write_lines(folder / "groups.jsonl", [])
    with (folder / "groups.jsonl").open("w", encoding="utf-8", errors="surrogatepass") as file:
        file.writelines(json.dumps(line, ensure_ascii="\ud800" in str(line)) + "\n" for line in lines)
    return prepared(folder)


def test_quantiles_and_the_highest_pairs_with_their_texts(tmp_path: Path) -> None:
    found = summarize_ches(scored(tmp_path / "reference"), with_texts(tmp_path / "data"), None)
    assert found is not None and (found["num_pairs"], found["num_groups"], found["num_not_finite"]) == (21, 21, 0)
    assert found["mean_ches"] == {"p05": -19.0, "median": -10.0, "p95": -1.0}
    assert found["ches"] == {"p05": -16.0, "median": -7.0, "p95": 2.0} and found["trained"] is None
    highest = found["highest"]
    assert [one["mean_ches"] for one in highest] == [-float(number) for number in range(8)]
    assert highest[0]["group"] == "g0" and highest[0]["asks"] == "question of g0" and highest[0]["preferred"] == "good of g0"
    assert highest[0]["dispreferred"].startswith('{"role": "assistant"')
    assert [list(row) for row in ches_rows(found)] == [["CHES", "5 %", "median", "95 %"]] * 2
    assert ches_rows(found)[0] == {"CHES": "per token", "5 %": "−19", "median": "−10", "95 %": "−1"}
    [said] = ches_notes(found)
    assert "21 pairs of 21 prompts" in said and "no threshold is known" in said


def test_one_pair_of_a_prompt_is_shown_and_ids_are_told_apart(tmp_path: Path) -> None:
    lines = [
        {"group": group, "chosen": 0, "rejected": rejected, "ches": 1.0, "mean_ches": mean}
        for group, rejected, mean in (("g1", 1, -3.0), ("g1", 2, 5.0), ("g1", 3, 4.0), ('q"é', 1, 4.5), ("none", 1, 0.0))
    ]
    write_lines(tmp_path / "reference" / "ches.jsonl", lines)
    found = summarize_ches(tmp_path / "reference", with_texts(tmp_path / "data"), None)
    assert found is not None and (found["num_pairs"], found["num_groups"]) == (5, 3)
    highest = found["highest"]
    assert [(one["group"], one["mean_ches"]) for one in highest] == [("g1", 5.0), ('q"é', 4.5), ("none", 0.0)]
    assert [one["asks"] for one in highest] == ["question of g1", 'question of q"é', ""]
    assert highest_rows(found)[2]["preferred"] == "–"


@pytest.mark.parametrize(
    ("shifts", "rho", "says"),
    [
        ([-mean - 10 for mean in MEANS], -1.0, "fall further or rise less, as the paper says"),
        ([mean for mean in MEANS], 1.0, "against what the paper says"),
        ([mean**2 if mean > -10 else (mean + 20) ** 2 for mean in MEANS], None, ""),
        ([1.0] * 21, None, "have no rank correlation over 21 pairs"),
    ],
)
def test_scores_beside_what_training_did(tmp_path: Path, shifts: list[float], rho: float | None, says: str) -> None:
    shown = summarize_ches(scored(tmp_path / "reference"), None, moved(tmp_path / "shifts", shifts))
    assert shown is not None
    trained = shown["trained"]
    if rho is not None:
        assert trained["mean_ches"] == pytest.approx(rho)
    # A tenth of 21 pairs are 3, those that scored 0, −1 and −2.
    ranked = [MEANS.index(-number) for number in range(3)]
    assert trained["num_pairs"] == 21 and trained["mean_shift"] == pytest.approx(sum(shifts) / 21)
    assert trained["mean_shift_of_highest"] == pytest.approx(sum(shifts[number] for number in ranked) / 3)
    assert trained["share_down"] == pytest.approx(sum(shift < 0 for shift in shifts) / 21)
    assert says in ches_notes(shown)[-1]
    assert "no interval" in ches_notes(shown)[-1] or rho is None
    assert list(ches_rows(shown)[0])[-1] == "ρ with the shift"


def test_what_is_not_finite_is_counted_and_left_out(tmp_path: Path) -> None:
    means = [None, 1.0, 2.0, 3.0]
    found = summarize_ches(
        scored(tmp_path / "reference", means), None, moved(tmp_path / "shifts", [5.0, None, -1.0, -2.0], means)
    )
    assert found is not None and found["num_not_finite"] == 1 and found["mean_ches"]["median"] == 2.0
    assert found["trained"]["num_pairs"] == 2 and found["trained"]["mean_ches"] == pytest.approx(-1)
    assert "1 pairs have no finite score" in ches_notes(found)[1]
    nothing = summarize_ches(scored(tmp_path / "none", [None]), None, None)
    assert nothing is not None and nothing["mean_ches"] is None and ches_rows(nothing)[0]["median"] == "–"
    assert nothing["highest"] == []


def test_the_page_has_them_and_a_run_without_scores_has_no_such_part(tmp_path: Path) -> None:
    shifts = moved(tmp_path / "shifts", [-mean - 10 for mean in MEANS])
    collected = inputs(tmp_path, {}, data=with_texts(tmp_path / "data"), reference=scored(tmp_path / "reference"), stages=[])
    html, page = built(tmp_path / "out", collected)
    text = " ".join(page.text.split())
    assert "Which pairs may lower their own preferred completion" in text and "question of g0" in text
    assert "<script>alert" not in html
    assert summarize(collected)["ches"] == summarize_ches(collected.reference, collected.data, None)
    _, page = built(tmp_path / "without", inputs(tmp_path, {}, data=collected.data, reference=shifts / "no", stages=[]))
    assert "Which pairs may lower" not in page.text


def test_show_has_the_scores_before_there_is_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("BNF_HOME", str(tmp_path))
    run, store = run_of(tmp_path, "scored", 1), Store(tmp_path / "artifacts")
    for stage, fill in (("prepare", with_texts), ("reference", scored)):
        made_of = Ingredients(stage, {}, {}, {})
        work = store.work_folder(stage, made_of.key())
        fill(work)
        artifact = store.commit(made_of, work, content=("*",), fingerprint=None, about={})
        run.add(Node(stage, {}), artifact, cached=False, seconds=1.0)
    run.end("stopped")
    show_run("scored", as_json=False)
    shown = capsys.readouterr().out
    assert "pairs by CHES" in shown and "per token" in shown and "−10" in shown
    assert "question of g0" in shown and "21 pairs of 21 prompts" in shown
    assert "prompts, by the model that training starts from, before training" in " ".join(shown.split())


# What a score is a score of, in a second round.
START = "the policy of round 1, from which round 2 starts"
WHOSE = {"fixed": f"the base model, and not by {START}", "each_round": START}


@pytest.mark.parametrize("reference", WHOSE)
def test_a_later_rounds_scores_are_said_to_be_whose_they_are(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """In summary.json, on the page, and in the terminal before there is one."""
    recipe = {"sample": {"source": "number_comparison", "rounds": 2, "reference": reference}}
    assert [scored_by(recipe, number) for number in (None, 1)] == ["the model that training starts from"] * 2
    data, scores = with_texts(tmp_path / "data"), scored(tmp_path / "reference")
    collected = inputs(tmp_path, {}, data=data, reference=scores, stages=[])
    collected = dataclasses.replace(collected, recipe=collected.recipe | recipe, rounds=[{}, {}])
    monkeypatch.setattr("evaluation.report.summary.summarize_rounds", lambda rounds: [])
    found = summarize(collected)["ches"]
    assert found["model"] == WHOSE[reference]
    assert f"21 pairs of 21 prompts, by {WHOSE[reference]}, before training: " in ches_notes(found)[0]
    del found["model"]
    assert "21 pairs of 21 prompts, by the reference, before training: " in ches_notes(found)[0], "of an older version"

    monkeypatch.setenv("BNF_HOME", str(tmp_path))
    rounds = {"data": None, **recipe, "label": {"labeler": "verifier"}}
    run, store = run_of(tmp_path, "rounds", 1, **rounds), Store(tmp_path / "artifacts")
    for number in (1, 2):
        made_of = Ingredients("reference", {"round": number}, {}, {})
        work = store.work_folder("reference", made_of.key())
        scored(work)
        artifact = store.commit(made_of, work, content=("*",), fingerprint=None, about={})
        run.add(Node("reference", {}, round=number), artifact, cached=False, seconds=1.0)
    show_run("rounds", as_json=False)
    assert f"prompts, by {WHOSE[reference]}, before training" in " ".join(capsys.readouterr().out.split())
