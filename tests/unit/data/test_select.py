"""Seeded choices where rows share ids, pairs share completions, or nothing is left: counts by hand."""

from collections import Counter
from dataclasses import replace

import pytest

from bnf.data.groups import read_groups
from data.preparing.config import PrepareConfig
from data.preparing.prepare import prepare_labelled
from data.reading.records import DataSource
from tests.unit.data.helpers import LENIENT, ledger, needs_model, prepare, write_rows
from tests.unit.evaluation.fake_engine import no_progress


def one_id(path, count, per_id):
    rows = [{"prompt_id": f"i{n // per_id}", "prompt": f"p{n // per_id}"} for n in range(count)]
    return write_rows(path, [{**row, "chosen": f"yes {n}", "rejected": f"no {n}"} for n, row in enumerate(rows)])


@needs_model
@pytest.mark.parametrize(
    ("count", "per_id", "mask", "sides"),
    [
        (4, 4, {"mask_fraction": 0.5}, {"chosen": 1, "rejected": 1}),
        (4, 4, {"mask_to_chosen": 0.5, "mask_to_rejected": 0.5}, {"chosen": 2, "rejected": 2}),
        (40, 8, {"mask_fraction": 1.0}, {"chosen": 20, "rejected": 20}),
    ],
)
def test_masks_are_exact_where_rows_share_an_id(tmp_path, count, per_id, mask, sides):
    path = one_id(tmp_path / "p.jsonl", count, per_id)
    _, found, _ = prepare(tmp_path / "out", ("pairs", path), config=replace(LENIENT, **mask))
    assert Counter(row["side"] for row in found if row["outcome"] == "masked") == sides


@needs_model
def test_a_pair_that_is_said_twice_is_one_pair_to_a_mask(tmp_path):
    rows = [
        {"prompt": f"p{n % 4}", "chosen": "a", "rejected": "b", "score_chosen": n + 2, "score_rejected": 1} for n in range(8)
    ]
    path = write_rows(tmp_path / "p.jsonl", rows)
    groups, found, counts = prepare(tmp_path / "out", ("pairs", path), config=replace(LENIENT, mask_fraction=1.0))
    assert all(len(group.completions) == 1 for group in groups) and counts["rows"] == {"duplicate": 4, "masked": 4}
    assert found[4]["detail"] == "the same pair as on line 1"


@needs_model
def test_a_masked_side_that_another_pair_keeps_is_said(tmp_path):
    rows = [{"prompt": "p", "chosen": "a", "rejected": text} for text in "bcd"]
    path = write_rows(tmp_path / "p.jsonl", rows)
    groups, found, counts = prepare(tmp_path / "out", ("pairs", path), config=replace(LENIENT, mask_to_rejected=0.4))
    assert len(groups[0].completions) == 4
    assert [row["still_there"] for row in found if row["outcome"] == "masked"] == [1]
    assert counts["num_still_there"] == 1
    _, found, _ = prepare(tmp_path / "all", ("pairs", path), config=replace(LENIENT, mask_to_rejected=1.0))
    assert not any("still_there" in row for row in found)


@needs_model
def test_choices_that_leave_nothing_are_refused_after_the_ledger_is_written(tmp_path):
    pairs = [{"prompt": f"p{n}", "chosen": "yes", "rejected": "no"} for n in range(2)]
    rated = [{"prompt": "p", "completions": ["a", "b"], "ratings": [1, 2]}]
    pairs, rated = write_rows(tmp_path / "p.jsonl", pairs), write_rows(tmp_path / "r.jsonl", rated)
    for number, (sources, config, message) in enumerate(
        [
            ([("pairs", pairs)], {"dev_fraction": 0.9}, r"prepare\.dev_fraction must leave .* got 0\.9, which takes 2 of 2"),
            ([("ratings", rated)], {"mask_fraction": 0.5}, r"prepare\.mask_fraction must have pairs .* prepare\.pairing"),
            (
                [DataSource("pairs", str(pairs), weight=1.0), DataSource("ratings", str(rated), weight=100.0)],
                {},
                r"data\.weight must leave every source a prompt, got none of p\.jsonl",
            ),
        ]
    ):
        out = tmp_path / str(number)
        with pytest.raises(ValueError, match=message):
            prepare(out, *sources, config=replace(LENIENT, **config))
        assert ledger(out)[0] and not (out / "groups.safetensors").exists()


@needs_model
@pytest.mark.parametrize("weight", [None, 1.0])
def test_a_mixture_whose_one_source_gives_nothing_is_refused_however_small_it_is(tmp_path, weight):
    good = write_rows(tmp_path / "g.jsonl", [{"prompt": f"p{n}", "chosen": "yes", "rejected": "no"} for n in range(9)])
    other = write_rows(tmp_path / "o.jsonl", [{"question": "p", "chosen": "yes", "rejected": "no"}])
    sources = [DataSource("pairs", str(path), weight=weight) for path in (good, other)]
    with pytest.raises(
        ValueError, match=r"^data\.1 must give rows, got 1 that are all lost \(first line 1: bad_schema, must have prompt"
    ):
        prepare(tmp_path / "lost", *sources, config=PrepareConfig())
    assert len(ledger(tmp_path / "lost")[0]) == 10
    other.write_text("")
    with pytest.raises(ValueError, match=r"^data\.1 must give rows, got none in o\.jsonl"):
        prepare(tmp_path / "none", *sources)
    write_rows(other, [{"prompt": "p1", "chosen": "yes", "rejected": "no"}])  # said before: not lost
    if weight is None:
        assert len(prepare(tmp_path / "twice", *sources)[0]) == 9


@needs_model
def test_sources_of_one_file_name_are_told_apart(tmp_path):
    files = [write_rows(tmp_path / n / "t.jsonl", [{"prompt": n, "chosen": "yes", "rejected": "no"}]) for n in "ab"]
    _, found, counts = prepare(tmp_path / "out", *(("pairs", path) for path in files))
    assert [row["source"] for row in found] == ["0:t.jsonl", "1:t.jsonl"] and counts["source"] == "0:t.jsonl, 1:t.jsonl"


@needs_model
def test_completions_without_a_rating_have_their_line_and_place(tmp_path):
    scores = [{"overall_score": 9}, {"overall_score": "N/A"}, {"overall_score": 3}, {}, {"overall_score": 1}]
    rows = [{"instruction": "p", "completions": [{"response": f"r{n}", **score} for n, score in enumerate(scores)]}]
    path = write_rows(tmp_path / "u.jsonl", rows)
    _, found, counts = prepare(tmp_path / "out", ("ultrafeedback_ratings", path))
    assert [row["completion"] for row in found if row["outcome"] == "unrated"] == [1, 3]
    assert counts["completions_left_out"]["unrated"] == 2


@needs_model
def test_half_a_surrogate_pair_in_a_name_is_a_ledger_row(tmp_path):
    half = "\\ud83d"
    path = tmp_path / "r.jsonl"
    path.write_text(
        f'{{"prompt": "a", "completions": ["x", "y"], "ratings": [1, 2], "models": ["{half}", "b"]}}\n'
        f'{{"prompt": [{{"role": "us{half}", "content": "a"}}], "completions": ["x", "y"], "ratings": [1, 2]}}\n'
        f'{{"id": "{half}", "prompt": "b", "completions": ["x", "y"], "ratings": [1, 2]}}\n'
        '{"prompt": "c", "completions": ["x", "y"], "ratings": [1, 2]}\n'
    )
    _, found, _ = prepare(tmp_path / "out", ("ratings", path))
    assert [row["outcome"] for row in found if "completion" not in row] == ["not_utf8"] * 3 + ["kept"]


def test_no_round_trains_on_a_prompt_that_another_puts_aside(tmp_path):
    def record(n):
        ends = {"finish_reason": "stop"}
        right = {"text": "a", "token_ids": [5, 2], "reward": 1.0, "outcome": "correct", **ends}
        wrong = {"text": "b", "token_ids": [6, 2], "reward": 0.0, "outcome": "wrong", **ends}
        messages = [{"role": "user", "content": f"{n}?"}]
        return {"id": f"p{n}", "messages": messages, "prompt_ids": [7], "held_out": False, "completions": [right, wrong]}

    trained, dev = set(), set()
    for number in range(4):
        out = tmp_path / str(number)
        path = write_rows(tmp_path / f"{number}.jsonl", [record(n % 30) for n in range(20 * number, 20 * number + 20)])
        prepare_labelled(path, out, PrepareConfig(dev_fraction=0.2), progress=no_progress)
        trained |= {group.id for group in read_groups(out)}
        dev |= {group.id for group in read_groups(out / "dev")} if (out / "dev").exists() else set()
    assert dev and not dev & trained and len(dev | trained) == 30
