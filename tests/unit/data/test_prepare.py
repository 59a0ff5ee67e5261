"""Preparation: what goes in is in a group or in the ledger, with exact ids."""

import gzip
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from bnf.data.groups import Completion, PromptGroup, read_groups, write_groups
from bnf.data.rendering import load_tokenizer, render_prompt
from data.preparing.config import PrepareConfig
from data.preparing.prepare import prepare_labelled, prepare_sources
from data.reading.records import DataSource
from data.samples import make as _sample_pairs
from tests.unit.evaluation.fake_engine import no_progress
from tests.unit.rendering import render_completion

MODEL = Path(__file__).parents[3] / "models" / "SmolLM2-135M-Instruct"
pytestmark = pytest.mark.skipif(not MODEL.is_dir(), reason="the demonstration model is not there; make env fetches it")
LENIENT = PrepareConfig(pairing="all", max_dropped_share=1.0)
GOOD = {"id": "good", "prompt": "Say yes", "chosen": "yes", "rejected": "no"}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(MODEL)


def prepare_source(source, path, output_dir, config):
    prepare_sources([DataSource(source, str(path))], MODEL, output_dir, config, num_proc=1, progress=no_progress)


def test_progress_names_what_it_counts(tmp_path):
    path, said = tmp_path / "pairs.jsonl", []
    path.write_text(json.dumps(GOOD) + "\n")
    prepare_sources(
        [DataSource("pairs", str(path))],
        MODEL,
        tmp_path / "out",
        LENIENT,
        num_proc=1,
        progress=lambda *shown: said.append(shown),
    )
    size = path.stat().st_size
    assert said[0] == (size, size, "bytes, 1 rows")


def _ledger(folder):
    rows = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    return rows, json.loads((folder / "ledger.json").read_text())


def _pairs(tmp_path, lines, config=LENIENT):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines) + b"\n")
    prepare_source("pairs", path, tmp_path / "out", config)
    return read_groups(tmp_path / "out"), *_ledger(tmp_path / "out")


def _completion(text, reward, finish_reason="stop", ids=None, outcome=None):
    ids = ids if ids is not None else [*map(ord, text), *([2] if finish_reason == "stop" else [])]
    outcome = outcome or ("correct" if reward else "wrong")
    return {"text": text, "token_ids": ids, "finish_reason": finish_reason, "reward": reward, "outcome": outcome}


def _labelled(tmp_path, *prompts, config=LENIENT, offline_dir=None):
    records = [
        {
            "id": f"p{n}",
            "messages": [{"role": "user", "content": f"{n}?"}],
            "prompt_ids": [7, 8],
            "item": {},
            "held_out": False,
            "completions": one,
        }
        for n, one in enumerate(prompts)
    ]
    (tmp_path / "labelled.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    prepare_labelled(tmp_path / "labelled.jsonl", tmp_path / "out", config, offline_dir=offline_dir, progress=no_progress)
    return read_groups(tmp_path / "out"), *_ledger(tmp_path / "out")


def test_pair_in_every_form_gives_the_same_ids(tmp_path, tokenizer):
    messages = [{"role": "user", "content": "Say yes"}]
    answer = {side: [{"role": "assistant", "content": GOOD[side]}] for side in ("chosen", "rejected")}
    forms = [
        GOOD,
        {"id": "messages", "prompt": messages, **answer},
        {"id": "whole", "prompt": messages, **{side: messages + answer[side] for side in answer}},
        {"id": "binarized", "prompt": "Say yes", **{side: messages + answer[side] for side in answer}},
    ]
    for number, form in enumerate(forms):
        (tmp_path / str(number)).mkdir()
        (group,), rows, _ = _pairs(tmp_path / str(number), [form])
        assert group.prompt_ids == tuple(render_prompt(tokenizer, messages))
        assert group.completions[0].token_ids == tuple(render_completion(tokenizer, messages, "yes"))
        assert [completion.label for completion in group.completions] == [1, -1] and group.pairs == ((0, 1),)
        assert rows == [{"line": 1, "id": form["id"], "outcome": "kept"}]


@pytest.mark.parametrize(
    ("line", "outcome", "detail"),
    [
        (b"{broken", "bad_schema", "not JSON"),
        (b"[1, 2]", "bad_schema", "JSON object"),
        (b"\xff\xfe{}", "not_utf8", "byte 0"),
        ({"prompt": "a", "chosen": "b"}, "bad_schema", "no rejected"),
        ({"prompt": "a", "chosen": 3, "rejected": "b"}, "bad_schema", "chosen must be text or a list of messages, got int"),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, "bad_schema", "prompt must be text or a list"),
        (
            {"prompt": "a", "chosen": [{"role": "user", "content": "b"}], "rejected": "c"},
            "no_assistant_turn",
            "chosen must be one assistant message",
        ),
        ({"prompt": "a", "chosen": " \n", "rejected": "b"}, "empty", "chosen must hold text"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "empty", "prompt must hold text"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "identical_pair", "same text"),
        ({**GOOD, "id": "again"}, "duplicate", "as on line 1"),
        ({**GOOD, "prompt": "another"}, "bad_schema", "same id as on line 1"),
        ({"prompt": "a", "chosen": "b<|im_end|>", "rejected": "c"}, "unrenderable", "no control token"),
        ({"prompt": "long " * 3000, "chosen": "a", "rejected": "b"}, "over_length", "max_prompt_length"),
        ({"prompt": "a", "chosen": "a", "rejected": "long " * 3000}, "over_length", "max_length"),
        (
            {"prompt": [{"role": "assistant", "content": "a"}], "chosen": "b", "rejected": "c"},
            "unrenderable",
            "before the assistant's turn",
        ),
    ],
)
def test_every_fault_is_a_ledger_row_that_names_its_line(tmp_path, line, outcome, detail):
    groups, rows, summary = _pairs(tmp_path, [GOOD, line])
    assert len(groups) == 1 and rows[1]["line"] == 2
    assert rows[1]["outcome"] == outcome and detail in rows[1]["detail"]
    assert summary["num_rows"] == 2 and summary["rows"] == {"kept": 1, outcome: 1}
    assert summary["dropped_share"] == (0.0 if outcome == "duplicate" else 0.5)


def test_too_many_lost_rows_fail_with_the_reasons_and_the_first_line(tmp_path):
    config = PrepareConfig(max_dropped_share=0.4)
    with pytest.raises(ValueError, match=r"at most 40%, got 50\.0% of 2 \(1 bad_schema; first line 2: .*ledger.jsonl"):
        _pairs(tmp_path, [GOOD, {"prompt": "a"}], config)
    assert (tmp_path / "out" / "ledger.jsonl").exists() and not (tmp_path / "out" / "groups.safetensors").exists()


def test_nothing_left_fails_whatever_share_is_allowed(tmp_path):
    with pytest.raises(ValueError, match="must leave at least one row"):
        _pairs(tmp_path, [{"prompt": "a"}])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="at least one row, got none"):
        _pairs(tmp_path / "empty", [b""])


def test_truncation_raise_names_the_row_and_the_limit(tmp_path):
    with pytest.raises(ValueError, match=r"prepare.max_length must hold the row, got \d+ tokens against 30 at line 1"):
        _pairs(tmp_path, [GOOD], replace(LENIENT, max_length=30, truncation="raise"))


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.path must be a file"):
        prepare_source("pairs", tmp_path / "none", tmp_path / "out", LENIENT)
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode() * 50)[:-20])
    with pytest.raises(ValueError, match="whole gzip file"):
        prepare_source("pairs", path, tmp_path / "out", LENIENT)


def test_gzip_gives_what_the_plain_file_gives(tmp_path):
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress(_sample_pairs.PATH.read_bytes()))
    for name, source in (("plain", _sample_pairs.PATH), ("gz", path)):
        prepare_source("pairs", source, tmp_path / name, LENIENT)
    assert (tmp_path / "plain" / "groups.safetensors").read_bytes() == (tmp_path / "gz" / "groups.safetensors").read_bytes()


@pytest.mark.parametrize("seed", [0, 1])
def test_masking_is_exact_nested_and_even(tmp_path, seed):
    sides = {}
    for fraction in (0.0, 0.25, 0.5, 1.0):
        out = tmp_path / str(fraction)
        config = PrepareConfig(mask_fraction=fraction, pairing="all", seed=seed)
        prepare_source("pairs", _sample_pairs.PATH, out, config)
        masked = {group.id: group.completions[0].label for group in read_groups(out) if len(group.completions) == 1}
        assert len(masked) == round(120 * fraction)
        assert all(group.pairs == ((0, 1),) for group in read_groups(out) if group.id not in masked)
        assert sum(masked.values()) == 0, "as many chosen as rejected"
        rows, summary = _ledger(out)
        assert Counter(row["outcome"] for row in rows)["masked"] == len(masked) and summary["dropped_share"] == 0
        assert {row["id"]: 1 if row["side"] == "chosen" else -1 for row in rows if row["outcome"] == "masked"} == masked
        sides[fraction] = masked
    assert sides[0.25].items() <= sides[0.5].items() <= sides[1.0].items()


def test_masks_differ_between_seeds(tmp_path):
    masked = []
    for seed in (0, 1):
        config = PrepareConfig(mask_fraction=0.5, seed=seed)
        prepare_source("pairs", _sample_pairs.PATH, tmp_path / str(seed), config)
        masked.append({group.id for group in read_groups(tmp_path / str(seed)) if len(group.completions) == 1})
    assert masked[0] != masked[1]


def test_pairing_none_leaves_labelled_completions_without_pairs(tmp_path):
    (group,), _, _ = _pairs(tmp_path, [GOOD], PrepareConfig())
    assert group.pairs == () and len(group.completions) == 2


def test_sampled_ids_are_kept_exactly_and_limits_hold(tmp_path):
    completions = [
        _completion("42", 1.0, ids=[90, 91, 2]),  # other ids than a tokenizer would give this text
        _completion("42", 1.0),  # the same text again
        _completion("43", 0.0),
        _completion("42 is", 0.0, "length"),
        _completion("44", 0.0),
        _completion("042", 1.0),
        _completion("42.0", 1.0),
    ]
    (group,), rows, summary = _labelled(
        tmp_path, completions, config=PrepareConfig(max_preferred=2, max_dispreferred=2, max_dropped_share=1.0)
    )
    assert group.prompt_ids == (7, 8) and group.pairs == ()
    assert [(one.token_ids, one.label, one.score) for one in group.completions] == [
        ((90, 91, 2), 1, 1.0),
        ((*map(ord, "43"), 2), -1, 0.0),
        (tuple(map(ord, "42 is")), -1, 0.0),  # unterminated: as it was sampled
        ((*map(ord, "042"), 2), 1, 1.0),
    ]
    left_out = {row["completion"]: row["outcome"] for row in rows if "completion" in row}
    assert left_out == {1: "duplicate", 4: "over_limit", 6: "over_limit"}
    assert summary["completions_left_out"] == {"duplicate": 1, "over_limit": 2} and summary["rows"] == {"kept": 1}
    assert (summary["num_preferred"], summary["num_dispreferred"]) == (2, 2)
    assert summary["prompt_tokens"] == 2 and summary["completion_tokens"] == 3 + 3 + 5 + 4
    assert summary["prompt_share"] == pytest.approx(2 / 17)


def test_completions_that_cannot_be_used_are_left_out_with_their_reason(tmp_path):
    completions = [
        _completion("7", 1.0, "length"),
        _completion("", 0.0, "prompt_too_long", ids=[]),
        _completion("8", 0.0, outcome="error"),
        _completion("x" * 3000, 0.0),
        _completion("9", 0.0),
    ]
    (group,), rows, _ = _labelled(tmp_path, completions, config=PrepareConfig(max_dropped_share=1.0))
    assert len(group.completions) == 1
    assert [row["outcome"] for row in rows if "completion" in row] == ["unterminated", "empty", "scorer_error", "over_length"]


def test_prompts_without_completions_or_pairs_are_dropped_to_the_ledger(tmp_path):
    kept = [_completion("1", 1.0), _completion("2", 0.0)]
    groups, rows, summary = _labelled(tmp_path, kept, [_completion("3", 1.0, "length")], [_completion("4", 1.0)])
    assert [group.id for group in groups] == ["p0"]
    assert [row["outcome"] for row in rows if "completion" not in row] == ["kept", "no_completion", "no_pair"]
    assert summary["dropped_share"] == pytest.approx(2 / 3)


def test_pairings_of_samples(tmp_path):
    completions = [_completion("1", 1.0), _completion("2", 0.0), _completion("3", 1.0), _completion("4", 0.0)]
    (group,), _, _ = _labelled(tmp_path, completions)
    assert set(group.pairs) == {(0, 1), (0, 3), (2, 1), (2, 3)}
    (group,), rows, _ = _labelled(tmp_path, completions, config=PrepareConfig(pairing="best_worst"))
    assert group.pairs == ((0, 1),) and [one.label for one in group.completions] == [1, -1]
    assert {row["completion"]: row["outcome"] for row in rows if "completion" in row} == {2: "unpaired", 3: "unpaired"}


RATED = [("a", 0.9), ("b", 0.2), ("c", 0.7), ("d", 0.1), ("e", 0.6)]


def _rated(*ratings):
    return [_completion(text, reward, outcome="rated") for text, reward in ratings]


def _kept(group):
    return {bytes(one.token_ids[:-1]).decode(): one.label for one in group.completions}


def test_what_is_kept_of_a_prompt(tmp_path):
    config = PrepareConfig(max_dropped_share=1.0)
    (group,), _, _ = _labelled(tmp_path, _rated(*RATED), config=config)
    assert _kept(group) == {"a": 1, "b": -1, "c": 1, "d": -1, "e": 1}
    (group,), rows, _ = _labelled(tmp_path, _rated(*RATED), config=replace(config, keep="best_worst"))
    assert _kept(group) == {"a": 1, "d": -1} and group.pairs == ()
    assert [row["outcome"] for row in rows if "completion" in row] == ["over_limit"] * 3
    (group,), _, _ = _labelled(tmp_path, _rated(*RATED), config=replace(config, keep="balanced"))
    assert _kept(group) == {"a": 1, "b": -1, "c": 1, "d": -1}


def test_prompts_without_a_contrast_are_left_out_and_are_not_lost(tmp_path):
    config = PrepareConfig(max_dropped_share=0.0)
    all_right, same = _rated(("a", 0.9), ("a", 0.9), ("b", 0.8)), _rated(("a", 0.9), ("a", 0.1))
    for keep in ("best_worst", "balanced"):
        groups, rows, summary = _labelled(tmp_path, _rated(*RATED), all_right, config=replace(config, keep=keep))
        assert [group.id for group in groups] == ["p0"] and summary["rows"] == {"kept": 1, "no_contrast": 1}
        assert [row["outcome"] for row in rows if row["id"] == "p1" and "completion" in row] == [
            "no_contrast",
            "duplicate",
            "no_contrast",
        ]
    groups, _, summary = _labelled(tmp_path, _rated(*RATED), same, config=replace(config, keep="best_worst"))
    assert len(groups) == 1 and summary["rows"] == {"kept": 1, "no_contrast": 1}


def test_prompts_whose_rewards_are_near_are_left_out(tmp_path):
    near = _rated(("a", 0.55), ("b", 0.45))
    config = PrepareConfig(max_dropped_share=0.0, min_reward_gap=0.2)
    groups, _, summary = _labelled(tmp_path, _rated(*RATED), near, config=config)
    assert [group.id for group in groups] == ["p0"] and summary["rows"] == {"kept": 1, "reward_gap": 1}
    groups, _, _ = _labelled(tmp_path, near, config=replace(config, min_reward_gap=0.09))
    assert len(groups) == 1


def test_a_rounds_share_of_offline_groups(tmp_path):
    texts = [{"messages": [{"role": "user", "content": str(n)}], "completions": ["x"]} for n in range(10)]
    offline = [PromptGroup(f"off{n}", (1,), (Completion((n + 3, 2), 1, None, "pairs"),)) for n in range(10)]
    write_groups(tmp_path / "offline", offline, texts)
    sampled = [_rated(*RATED) for _ in range(6)]
    taken = []
    for number in (1, 2):
        config = PrepareConfig(offline_mix=0.4, round=number)
        groups, _, summary = _labelled(tmp_path, *sampled, config=config, offline_dir=tmp_path / "offline")
        assert summary["num_groups"] == 10 and summary["num_offline"] == 4
        taken.append({group.id: group for group in groups if group.id.startswith("off")})
        assert all(group == offline[int(id[3:])] for id, group in taken[-1].items())
        line = json.loads((tmp_path / "out" / "groups.jsonl").read_text().splitlines()[-1])
        assert line["messages"][0]["content"] == line["id"][3:] and line["completions"][0]["text"] == "x"
    assert len(taken[0].keys() | taken[1].keys()) == 8, "the second round takes others"
    with pytest.raises(ValueError, match=r"sample.offline_mix must leave room .* got 0.8, which takes 24 .* of 10 there are"):
        _labelled(tmp_path, *sampled, config=PrepareConfig(offline_mix=0.8), offline_dir=tmp_path / "offline")


def test_an_offline_prompt_that_a_round_puts_aside_is_not_trained_on(tmp_path):
    """Put aside or not follows from the prompt: one that the samples and the data share is on one side of every round."""
    texts = [{"messages": [{"role": "user", "content": f"{n}?"}], "completions": ["x"]} for n in range(20)]
    offline = [PromptGroup(f"off{n}", (1,), (Completion((n + 3, 2), 1, None, "pairs"),)) for n in range(20)]
    write_groups(tmp_path / "offline", offline, texts)
    config = PrepareConfig(dev_fraction=0.5, offline_mix=0.4)
    groups, _, _ = _labelled(tmp_path, *[_rated(*RATED)] * 20, config=config, offline_dir=tmp_path / "offline")
    aside = {group.id[1:] for group in read_groups(tmp_path / "out" / "dev")}
    taken = {group.id[3:] for group in groups if group.id.startswith("off")}
    assert 3 < len(aside) < 17 and taken and not taken & aside


def test_the_sample_pairs_are_what_their_generator_writes():
    assert _sample_pairs.PATH.read_text(encoding="utf-8") == _sample_pairs.text()
    rows = [json.loads(line) for line in _sample_pairs.text().splitlines()]
    assert len(rows) == len({row["prompt"] for row in rows}) == 120
    sums = [row for row in rows if row["id"].startswith("addition")]
    assert all(eval(row["prompt"].split("What is ")[1].split("?")[0]) == int(row["chosen"]) for row in sums)
    assert all(row["chosen"] != row["rejected"] for row in rows)


def test_objectives_that_need_every_sample_get_those_of_equal_text_and_those_cut_off(tmp_path):
    """Of draws from a policy a frequent one counts as often as it was drawn; otherwise a text is kept once."""
    samples = [
        _completion("yes", 1.0),
        _completion("yes", 1.0),
        _completion("no", 0.0),
        _completion("yes, it is", 1.0, finish_reason="length"),
        _completion("fine", 0.5, outcome="own_scale"),
        _completion("fine", 0.6, outcome="own_scale"),
        _completion("well", 0.7, outcome="own_scale"),
        _completion("", 0.0, ids=[], outcome="wrong"),
        _completion("broken", 0.0, outcome="error"),
    ]
    (group,), _, ledger = _labelled(tmp_path, samples, config=PrepareConfig(every_sample=True, max_dropped_share=1))
    assert [one.score for one in group.completions] == [1, 1, 0, 1, 0.5, 0.6, 0.7]
    # The one on the median of its prompt's ratings is on neither side, and its label is that of what is not preferred.
    assert [one.label for one in group.completions] == [1, 1, -1, 1, -1, -1, 1]
    assert ledger["completions_left_out"] == {"empty": 1, "scorer_error": 1} and ledger["num_contradictions"] == 0
    (group,), _, ledger = _labelled(tmp_path, samples, config=PrepareConfig(max_dropped_share=1))
    assert [one.score for one in group.completions] == [1, 0, 0.5, 0.7]
