"""Kinds of preference: what votes, ratings, masks, dev sets, noise and mixtures come to, with counts by hand."""

from collections import Counter
from dataclasses import replace

import pytest

from bnf.data.groups import read_groups
from data.preparing.config import PrepareConfig, RatingRule
from data.preparing.label_resolution import rating_labels
from data.preparing.staging import CandidateEntry
from data.reading.records import DataSource
from tests.unit.data.helpers import LENIENT, MODEL, ledger, needs_model, prepare, texts, write_rows

pytestmark = needs_model


def pairs(path, count, **more):
    rows = [{"id": f"r{n}", "prompt": f"{path.stem} {n}", "chosen": "yes", "rejected": "no", **more} for n in range(count)]
    return write_rows(path, rows)


def labels(scores, **rule):
    rated = [CandidateEntry(no, 0, 1, no, str(no), [], None, score, "", "") for no, score in enumerate(scores)]
    found = rating_labels(rated, RatingRule(**rule))
    return "".join({1: "+", -1: "-", 0: "."}[found[no]] for no in range(len(scores)))


@pytest.mark.parametrize(
    ("scores", "rule", "expected"),
    [
        ([1, 2, 3, 4], {}, "--++"),
        ([5, 5, 3, 1], {}, "++--"),
        ([5, 3, 3, 1], {}, "+..-"),  # the two alike would be on both sides
        ([5, 3, 3, 1], {"middle": "keep"}, "+..-"),  # and lie on the median
        ([1, 2, 3], {}, "-.+"),
        ([2], {}, "."),
        ([2, 2, 2], {}, "..."),
        ([0, 1, 2, 3, 4, 5, 6, 7], {"quantile": 0.25}, "--....++"),
        ([0, 1, 2, 3, 4, 5, 6, 7], {"quantile": 0.25, "middle": "keep"}, "----++++"),
        ([0, 1, 2, 3], {"quantile": 0.1}, "-..+"),  # at least one each
        ([2, 3, 4], {"threshold": 3}, "-++"),  # the threshold itself is preferred
        ([1, 2, 3, 4, 5], {"threshold": 3, "margin": 1}, "--.++"),
        ([1, 2.5, 3, 3.5, 5], {"threshold": 3, "margin": 1, "middle": "keep"}, "--+++"),  # the threshold too
    ],
)
def test_ratings_become_labels(scores, rule, expected):
    assert labels(scores, **rule) == expected
    assert labels([-score for score in scores][::-1], **{**rule, "quantile": rule.get("quantile", 0.5)})[::-1] == (
        expected.translate(str.maketrans("+-", "-+")) if "threshold" not in rule else labels([-s for s in scores], **rule)
    )


def test_rated_completions_of_one_prompt_are_one_group_whatever_rows_they_came_in(tmp_path):
    rows = [{"prompt": "p", "response": text, "helpfulness": score} for text, score in (("a", 4), ("b", 0), ("c", 2))]
    path = write_rows(tmp_path / "h.jsonl", [rows[0], {"prompt": "other", "response": "x", "helpfulness": 3}, *rows[1:]])
    groups, found, counts = prepare(tmp_path / "out", ("helpsteer", path))
    assert texts(tmp_path / "out") == {"p": [("a", 1), ("b", -1)]}
    assert [one.score for one in groups[0].completions] == [4.0, 0.0] and groups[0].completions[0].source == "helpsteer"
    assert [row["outcome"] for row in found] == ["kept", "middle", "kept", "middle"]
    assert counts["dropped_share"] == 0, "what the recipe leaves out is not lost"

    prepare(tmp_path / "all", ("helpsteer", path), config=replace(LENIENT, ratings=RatingRule(threshold=2), pairing="all"))
    (group,) = read_groups(tmp_path / "all")
    assert texts(tmp_path / "all") == {"p": [("a", 1), ("b", -1), ("c", 1)]} and set(group.pairs) == {(0, 1), (2, 1)}
    assert [row["outcome"] for row in ledger(tmp_path / "all")[0]] == ["kept", "no_pair", "kept", "kept"]


def test_completions_left_out_of_a_list_have_a_line_each(tmp_path):
    row = {
        "prompt": "p",
        "completions": ["a", "b", " ", "c", "d<|im_end|>"],
        "ratings": [1, 2, 5, 3, 9],
        "models": list("vwxyz"),
    }
    groups, found, counts = prepare(tmp_path / "out", ("ratings", write_rows(tmp_path / "r.jsonl", [row])))
    assert texts(tmp_path / "out") == {"p": [("a", -1), ("c", 1)]}
    assert [one.source for one in groups[0].completions] == ["ratings/v", "ratings/y"]
    assert [(one.get("completion"), one["outcome"]) for one in found] == [
        (None, "kept"), (1, "middle"), (2, "empty"), (4, "unrenderable"),
    ]  # fmt: skip
    assert counts["completions_left_out"] == {"empty": 1, "middle": 1, "unrenderable": 1}


@pytest.mark.parametrize(
    ("ties", "expected"),
    [
        ("drop", {"p0": [("a", 1), ("b", -1)]}),
        ("both_preferred", {"p0": [("a", 1), ("b", -1)], "p1": [("a", 1), ("b", 1)], "p2": [("a", -1), ("b", -1)]}),
        ("both_dispreferred", {"p0": [("a", 1), ("b", -1)], "p1": [("a", -1), ("b", -1)], "p2": [("a", -1), ("b", -1)]}),
    ],
)
def test_ties(tmp_path, ties, expected):
    rows = [
        {
            "conversation_a": [{"role": "user", "content": f"p{n}"}, {"role": "assistant", "content": "a"}],
            "conversation_b": [{"role": "user", "content": f"p{n}"}, {"role": "assistant", "content": "b"}],
            "winner": winner,
        }
        for n, winner in enumerate(("model_a", "tie", "tie (bothbad)"))
    ]
    _, found, counts = prepare(
        tmp_path / "out", ("arena", write_rows(tmp_path / "v.jsonl", rows)), config=replace(LENIENT, ties=ties)
    )
    assert texts(tmp_path / "out") == expected and counts["dropped_share"] == 0
    assert [row["outcome"] for row in found] == (["kept", "tie", "tie"] if ties == "drop" else ["kept"] * 3)


def test_thumbs_of_one_prompt_are_one_group_and_contradictions_are_counted(tmp_path):
    said = [("p", "a", True), ("q", "c", False), ("p", "b", False), ("p", "a", False), ("p", "a", True)]
    rows = [{"prompt": prompt, "completion": text, "label": label} for prompt, text, label in said]
    groups, found, counts = prepare(tmp_path / "out", ("thumbs", write_rows(tmp_path / "t.jsonl", rows)))
    assert texts(tmp_path / "out") == {"p": [("a", 1), ("b", -1), ("a", -1)], "q": [("c", -1)]}
    assert all(group.pairs == () for group in groups)
    assert [row["outcome"] for row in found] == ["kept"] * 4 + ["duplicate"] and counts["num_contradictions"] == 1
    assert counts["groups_by_labels"] == {"both": 1, "preferred_only": 0, "dispreferred_only": 1}


def test_pairs_of_one_prompt_are_one_group_with_the_pairs_of_the_data_alone(tmp_path):
    rows = [{"prompt": "p", "chosen": a, "rejected": b} for a, b in (("a", "b"), ("a", "c"), ("b", "c"))]
    groups, _, counts = prepare(
        tmp_path / "out", ("pairs", write_rows(tmp_path / "p.jsonl", rows)), config=replace(LENIENT, pairing="all")
    )
    assert texts(tmp_path / "out") == {"p": [("a", 1), ("b", -1), ("c", -1), ("b", 1)]}
    assert groups[0].pairs == ((0, 1), (0, 2), (3, 2)) and counts["num_contradictions"] == 1


def kept_sides(folder):
    return {group.id: "".join("+" if one.label > 0 else "-" for one in group.completions) for group in read_groups(folder)}


@pytest.mark.parametrize(("to_chosen", "to_rejected"), [(0.25, 0.5), (0.0, 0.3), (1.0, 0.0), (0.5, 0.5)])
def test_masks_of_each_side_are_exact_and_nested(tmp_path, to_chosen, to_rejected):
    path = pairs(tmp_path / "p.jsonl", 40)
    found = {}
    for name, share in (("half", 0.5), ("whole", 1.0)):
        config = PrepareConfig(mask_to_chosen=share * to_chosen, mask_to_rejected=share * to_rejected, pairing="all")
        prepare(tmp_path / name, ("pairs", path), config=config)
        found[name] = kept_sides(tmp_path / name)
        counts = Counter(found[name].values())
        assert counts["+"] == round(share * to_chosen * 40) and counts["-"] == round(share * to_rejected * 40)
        assert counts["+-"] == 40 - counts["+"] - counts["-"]
    masked = {id: sides for id, sides in found["half"].items() if len(sides) == 1}
    assert masked.items() <= found["whole"].items()


def test_odd_counts_mask_no_pair_twice():
    assert PrepareConfig(mask_to_chosen=0.5, mask_to_rejected=0.5).num_masked(3) == (2, 1)
    assert PrepareConfig(mask_fraction=1.0).num_masked(5) == (3, 2)
    assert PrepareConfig(mask_fraction=0.5).num_masked(6) == (2, 1)


def test_best_and_worst_of_rated_rows_can_be_masked(tmp_path):
    rows = [{"prompt": f"p{n}", "response": f"{s}", "helpfulness": s} for n in range(8) for s in (0, 4)]
    path = write_rows(tmp_path / "h.jsonl", rows)
    config = replace(LENIENT, pairing="best_worst", mask_fraction=0.5)
    groups, found, _ = prepare(tmp_path / "out", ("helpsteer", path), config=config)
    assert Counter(kept_sides(tmp_path / "out").values()) == {"-+": 4, "+": 2, "-": 2}
    assert Counter(row["outcome"] for row in found) == {"kept": 12, "masked": 4}
    assert all(group.pairs == ((1, 0),) for group in groups if len(group.completions) == 2)


def test_the_dev_set_is_disjoint_by_prompt_whole_and_the_same_under_every_mask(tmp_path):
    rows = [{"prompt": f"p{n % 20}", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(40)]
    path = write_rows(tmp_path / "p.jsonl", rows)
    dev_sets, masked = {}, {}
    for mask in (0.0, 0.25, 0.5):
        out = tmp_path / str(mask)
        config = PrepareConfig(dev_fraction=0.2, mask_fraction=mask, flip_fraction=mask / 2, pairing="all")
        groups, found, counts = prepare(out, ("pairs", path), config=config)
        dev = read_groups(out / "dev")
        assert len(dev) == 4 and len(groups) == 16 and not {g.prompt_ids for g in dev} & {g.prompt_ids for g in groups}
        assert all(len(group.completions) == 4 and len(group.pairs) == 2 for group in dev)
        outcomes = Counter(row["outcome"] for row in found)
        assert outcomes["dev"] == 8 and outcomes["masked"] == round(mask * 32) and counts["dev"]["num_groups"] == 4
        dev_sets[mask] = (out / "dev" / "groups.jsonl").read_bytes()
        masked[mask] = {row["id"] for row in found if row["outcome"] == "masked"}
    assert len(set(dev_sets.values())) == 1 and masked[0.25] <= masked[0.5]
    prepare(tmp_path / "more", ("pairs", path), config=PrepareConfig(dev_fraction=0.5))
    assert {g.id for g in read_groups(tmp_path / "0.0" / "dev")} <= {g.id for g in read_groups(tmp_path / "more" / "dev")}
    assert not (tmp_path / "none").exists()
    prepare(tmp_path / "none", ("pairs", path))
    assert not (tmp_path / "none" / "dev").exists()


def test_noise_turns_a_stated_share_round_and_repeats_another_the_other_way(tmp_path):
    path = pairs(tmp_path / "p.jsonl", 40)
    flipped = {}
    for share in (0.1, 0.25):
        _, found, counts = prepare(
            tmp_path / str(share), ("pairs", path), config=PrepareConfig(flip_fraction=share, pairing="all")
        )
        flipped[share] = {row["id"] for row in found if row.get("flipped")}
        assert len(flipped[share]) == counts["num_flipped"] == round(40 * share)
        for group in read_groups(tmp_path / str(share)):
            assert group.pairs == (((1, 0),) if group.id in flipped[share] else ((0, 1),))
    assert flipped[0.1] <= flipped[0.25]

    groups, found, counts = prepare(
        tmp_path / "both", ("pairs", path), config=PrepareConfig(contradict_fraction=0.25, pairing="all")
    )
    repeated = {row["id"] for row in found if row.get("contradicted")}
    assert len(repeated) == counts["num_contradicted"] == 10 and counts["num_contradictions"] == 20
    for group in groups:
        if group.id in repeated:
            assert [one.label for one in group.completions] == [1, -1, 1, -1] and set(group.pairs) == {(0, 3), (2, 1)}
        else:
            assert [one.label for one in group.completions] == [1, -1]


def test_noise_on_single_completions(tmp_path):
    rows = [{"prompt": f"p{n}", "completion": "a", "label": True} for n in range(10)]
    groups, _, _ = prepare(
        tmp_path / "out", ("thumbs", write_rows(tmp_path / "t.jsonl", rows)), config=replace(LENIENT, flip_fraction=0.3)
    )
    assert Counter(group.completions[0].label for group in groups) == {1: 7, -1: 3}


def test_a_mixture_has_its_weights_and_uses_no_prompt_twice(tmp_path):
    sources = [
        DataSource("pairs", str(pairs(tmp_path / "a.jsonl", 12)), weight=1.0),
        DataSource("pairs", str(pairs(tmp_path / "b.jsonl", 30)), weight=2.0),
    ]
    groups, found, counts = prepare(tmp_path / "out", *sources)
    assert Counter(group.id.partition(":")[0] for group in groups) == {"0": 12, "1": 24}
    assert counts["rows"] == {"kept": 36, "unsampled": 6} and counts["dropped_share"] == 0
    assert counts["source"] == "a.jsonl, b.jsonl" and counts["sources"][1]["rows"] == {"kept": 24, "unsampled": 6}
    assert found[12]["source"] == "b.jsonl" and found[12]["line"] == 1
    # A smaller weight's prompts are among a larger one's.
    prepare(tmp_path / "less", sources[0], replace(sources[1], weight=1.0))
    assert {g.id for g in read_groups(tmp_path / "less")} < {g.id for g in groups}
    prepare(tmp_path / "plain", *(replace(source, weight=None) for source in sources))
    assert len(read_groups(tmp_path / "plain")) == 42


def test_a_prompt_of_two_sources_is_one_group(tmp_path):
    thumbs = write_rows(tmp_path / "t.jsonl", [{"prompt": "a 0", "completion": "perhaps", "label": False}])
    groups, _, _ = prepare(tmp_path / "out", ("pairs", pairs(tmp_path / "a.jsonl", 1)), ("thumbs", thumbs))
    assert texts(tmp_path / "out") == {"a 0": [("yes", 1), ("no", -1), ("perhaps", -1)]}
    assert [one.source for one in groups[0].completions] == ["pairs", "pairs", "thumbs"]


def test_truncation_cuts_the_prompts_beginning_or_the_completions_end(tmp_path):
    from bnf.data.rendering import load_tokenizer, render_prompt
    from tests.unit.rendering import render_completion

    tokenizer = load_tokenizer(MODEL)
    row = {"prompt": "long " * 40, "chosen": "yes " * 30, "rejected": "no"}
    path = write_rows(tmp_path / "p.jsonl", [row])
    messages = [{"role": "user", "content": row["prompt"]}]
    prompt = tuple(render_prompt(tokenizer, messages))
    chosen, rejected = (tuple(render_completion(tokenizer, messages, row[side])) for side in ("chosen", "rejected"))

    config = replace(LENIENT, truncation="truncate_prompt", max_prompt_length=20)
    (group,), found, counts = prepare(tmp_path / "prompt", ("pairs", path), config=config)
    assert group.prompt_ids == prompt[-20:] and group.completions[0].token_ids == chosen
    assert found[0]["truncated"] == "prompt" and counts["num_truncated"] == 1

    config = replace(LENIENT, truncation="truncate_completion", max_length=len(prompt) + 7)
    (group,), found, _ = prepare(tmp_path / "completion", ("pairs", path), config=config)
    assert group.prompt_ids == prompt and group.completions[0].token_ids == chosen[:7]
    assert group.completions[1].token_ids == rejected and found[0]["truncated"] == "completion"


@pytest.mark.parametrize(
    ("limits", "outcome"),
    [
        ({"truncation": "truncate_prompt", "max_length": 50}, "over_length"),  # the completion alone is too long
        ({"truncation": "truncate_completion", "max_prompt_length": 20}, "over_length"),
        ({"truncation": "truncate_completion", "max_length": 20}, "over_length"),  # no token of a completion is left
        ({"truncation": "truncate_completion", "max_length": 42}, "identical_pair"),  # both begin alike
    ],
)
def test_truncation_that_leaves_nothing_to_learn_drops_the_row(tmp_path, limits, outcome):
    row = {"prompt": "Say it", "chosen": "the same beginning " * 9 + "yes", "rejected": "the same beginning " * 9 + "no"}
    fine = {"prompt": "x", "chosen": "a", "rejected": "b"}
    config = replace(LENIENT, **limits)
    try:
        _, found, _ = prepare(tmp_path / "out", ("pairs", write_rows(tmp_path / "p.jsonl", [row, fine])), config=config)
    except ValueError:
        found, _ = ledger(tmp_path / "out")
    assert found[0]["outcome"] == outcome


def test_simpos_span_reaches_the_groups(tmp_path):
    (group,), _, _ = prepare(
        tmp_path / "out", ("pairs", pairs(tmp_path / "p.jsonl", 1)), config=replace(LENIENT, completion_span="simpo")
    )
    (turn,), _, _ = prepare(tmp_path / "turn", ("pairs", tmp_path / "p.jsonl"))
    header = group.completions[0].token_ids[: len(turn.prompt_ids) - len(group.prompt_ids)]
    assert group.prompt_ids + header == turn.prompt_ids
    assert group.completions[0].token_ids == (*header, *turn.completions[0].token_ids, 198, 2)


def test_half_a_surrogate_pair_is_a_ledger_row(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"prompt": "a", "chosen": "\\ud83d", "rejected": "b"}\n{"prompt": "a", "chosen": "\\ud83d\\ude00", "rejected": "b"}\n'
    )
    _, found, _ = prepare(tmp_path / "out", ("pairs", path))
    assert [row["outcome"] for row in found] == ["not_utf8", "kept"]


def test_a_prompt_that_spells_out_a_turn_is_a_ledger_row(tmp_path):
    rows = [
        {"prompt": "a<|im_end|>\n<|im_start|>assistant\nb", "chosen": "c", "rejected": "d"},
        {"prompt": "a", "chosen": "<filename>", "rejected": "d"},
    ]
    _, found, _ = prepare(tmp_path / "out", ("pairs", write_rows(tmp_path / "p.jsonl", rows)))
    assert found[0]["outcome"] == "unrenderable" and "got ['<|im_end|>', '<|im_start|>']" in found[0]["detail"]
    assert found[1]["outcome"] == "kept", "a special token that the template never writes begins and ends nothing"


def test_histograms_and_languages_by_hand(tmp_path):
    texts = (
        "What is the capital of France?",
        "Was ist die Hauptstadt?",
        "Какая столица у Франции и почему?",
        "你好，请问今天天气怎么样",
        "今日はいい天気ですね",
        "1+2",
    )
    rows = [{"prompt": text, "chosen": "yes", "rejected": "no"} for text in texts]
    groups, _, counts = prepare(tmp_path / "out", ("pairs", write_rows(tmp_path / "p.jsonl", rows)))
    assert counts["languages"] == {"de": 1, "en": 1, "ja": 1, "ru": 1, "und": 1, "zh": 1}
    histogram = counts["histograms"]["preferred_length"]
    assert histogram["edges"][:3] == [0, 16, 32] and histogram["counts"][0] == 6 == sum(histogram["counts"])
    shares = [len(group.prompt_ids) / group.num_tokens for group in groups]
    by_hand = [sum(low <= share < low + 0.1 for share in shares) for low in (0.8, 0.9)]
    assert counts["histograms"]["prompt_share"]["counts"][8:] == by_hand
