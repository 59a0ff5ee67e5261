"""From verdicts to a score: hand-computed numbers, invariances, bias, nulls, style control, agreement of judges."""

import math
import random

import pytest

from evaluation.judging.aggregates.agreement import cohen_kappa, judges_agreement
from evaluation.judging.aggregates.judgment import Judgment
from evaluation.judging.aggregates.style_control import fit_logistic, style, style_controlled
from evaluation.judging.aggregates.win_rate import aggregate, paired_delta, score_delta, with_battles
from evaluation.judging.protocols.pairwise import parse, wants_more


def games_of(*verdicts, styles=None):
    """(game 1, game 2) pairs, one per question; `styles` has (candidate, baseline) tokens by question."""
    records = []
    for number, pair in enumerate(verdicts):
        facts = {}
        if styles:
            sides = (dict(zip(("candidate_style", "baseline_style"), styles[number], strict=True))).items()
            facts = {side: {"characters": 5 * n, "tokens": n, "headers": 0, "lists": 0, "bold": 0} for side, n in sides}
        records += [
            Judgment.from_json({"question_id": f"q{number}", "game": game, "verdict": verdict, **facts})
            for game, verdict in enumerate(pair, start=1)
        ]
    return records


def result_of(*verdicts, num_expected=None, **options):
    return aggregate(games_of(*verdicts), num_expected=num_expected or len(verdicts), **options)


@pytest.mark.parametrize(
    ("reply", "verdict", "more"),
    [
        ("A is better. [[A>B]]", "A>B", False),
        ("[[B>>A]]", "B>>A", False),
        ("First [[A=B]], and so [[A=B]].", "A=B", False),
        ("[[A>B]] or rather [[B>A]]", None, False),
        ("A>B", None, True),
        ("[[A<B]]", None, False),
        ("[A>B]", None, True),
        ("", None, True),
        ("[[A>B]] but [[A<B]]", None, False),
    ],
)
def test_verdict_of_free_text(reply, verdict, more):
    assert parse(reply) == verdict and wants_more(reply) is more


def test_score_by_hand():
    # Game 1: the candidate is B. Battles: 3 won, 1 won, 1 half, 3 lost -> (3 + 1 + .5) / 8.
    result = result_of(("B>>A", "A>B"), ("A=B", "B>>A"))
    assert result["score"] == pytest.approx(100 * 4.5 / 8)
    assert result["n_games"] == 4 and result["n_null"] == 0 and result["partial"] is False
    # Question 1: -1 and +1 by position; question 2: 0 and -1.
    assert result["position_bias"] == pytest.approx(-0.25) and result["order_agreement"] == pytest.approx(0.5)


def test_the_score_is_the_bradley_terry_strength_of_one_baseline():
    # What upstream fits: ln 10 × strength by logistic regression, every tie half a win, the baseline at 0.
    rng = random.Random(3)
    games = games_of(*[tuple(rng.choices(["A>>B", "A>B", "A=B", "B>A", "B>>A"], k=2)) for _ in range(60)])
    import numpy as np

    rows = with_battles(games)
    inputs = np.full((len(rows), 1), math.log(10))
    (strength,) = fit_logistic(
        inputs, np.array([got for _, got, _ in rows]), np.array([count for *_, count in rows]), ridge=0.0
    )
    assert aggregate(games, num_expected=60)["score"] == pytest.approx(100 / (1 + 10**-strength), abs=1e-9)


@pytest.mark.parametrize("verdict", ["A>B", "A>>B", "B>A", "B>>A"])
def test_a_judge_that_names_a_position_gives_exactly_50_and_is_not_trusted(verdict):
    result = result_of(*[(verdict, verdict)] * 9)
    assert result["score"] == 50.0
    assert result["position_bias"] == (1.0 if verdict.startswith("A") else -1.0)
    assert result["trusted"] is False and "position bias" in result["untrusted_reason"] and result["order_agreement"] == 0
    # Every question says the same: z² / (9 + z²) of others may be won or lost, and no more.
    assert result["ci_clustered"] == pytest.approx([50 - 50 * 3.841459 / 12.841459, 50 + 50 * 3.841459 / 12.841459])
    assert result["ci"][0] < 50 < result["ci"][1], "rows drawn singly do not know that they come in pairs"


def test_an_indifferent_judge_has_no_bias():
    rng = random.Random(0)
    result = result_of(*[(rng.choice(["A>B", "B>A", "A=B"]), rng.choice(["A>B", "B>A", "A=B"])) for _ in range(500)])
    assert abs(result["position_bias"]) < 0.06 and result["trusted"]
    assert result_of(*[("A=B", "A=B")] * 5)["position_bias"] == 0.0


def test_one_game_a_question_in_a_random_order_shows_the_bias_as_well():
    """The candidate is better in 70 %: games in either order alone would look biased."""
    always_a = [Judgment(str(n), 1 + n % 2, "A>B") for n in range(50)]
    assert aggregate(always_a, num_expected=50, orders="one")["position_bias"] == 1.0
    fair = [Judgment(str(n), 1 + n % 2, "B>A" if (n % 2 == 0) == (n // 2 % 10 < 7) else "A>B") for n in range(200)]
    found = aggregate(fair, num_expected=200, orders="one")
    assert found["position_bias"] == pytest.approx(0.0) and found["score"] == pytest.approx(70) and not found["partial"]


def single(number, game, verdict="A>B"):
    return Judgment(f"s{number}", game, verdict)


@pytest.mark.parametrize("pair", [("A>B", "B>A"), ("B>A", "A>B"), ("A=B", "A=B")])
def test_a_few_consistent_pairs_do_not_vouch_for_the_rest(pair):
    """A judge that always says A, asked in one order, and ten questions in both, which it answers as one would wish."""
    result = aggregate([single(n, 1) for n in range(490)] + games_of(*[pair] * 10), num_expected=500)
    assert not result["trusted"] and result["position_bias_coverage"] < 0.2
    assert "the position bias was measured on 11% of the questions" in result["untrusted_reason"]


def test_one_question_in_both_orders_does_not_hide_the_bias_of_the_others():
    games = [single(n, 1 + n % 2) for n in range(1024)] + [single(3, 1, "B>A")]
    result = aggregate(games, num_expected=1024, orders="one")
    assert result["position_bias"] > 0.99 and result["position_bias_coverage"] > 0.99 and not result["trusted"]


def test_a_tenth_of_the_second_games_may_be_missing():
    for num_single, trusted in ((10, True), (40, False)):
        games = games_of(*[("B>A", "A>B")] * (100 - num_single)) + [single(n, 1, "B>A") for n in range(num_single)]
        result = aggregate(games, num_expected=100)
        assert result["trusted"] is trusted and result["partial"]


def test_orders_drawn_at_random_need_not_be_of_one_number():
    rng = random.Random(7)
    for num_games in (10, 100, 1024):
        games = [single(n, game, "B>A" if game == 1 else "A>B") for n in range(num_games) for game in [rng.choice((1, 2))]]
        assert aggregate(games, num_expected=num_games, orders="one")["trusted"]


def test_a_game_that_is_there_twice_counts_twice():
    games = games_of(("B>A", "A>B"), ("A>B", "B>A"))
    result = aggregate(games + games[:2], num_expected=2)
    assert result["score"] == pytest.approx(200 / 3) and result["n_games"] == 6 and not result["partial"]
    assert result["n_questions"] == 2 and result["position_bias"] == 0.0


def test_a_consistent_judge_is_unbiased_and_trusted():
    result = result_of(*[("B>A", "A>B")] * 6, *[("A>B", "B>A")] * 2)
    assert result["score"] == 75.0 and result["position_bias"] == 0.0 and result["order_agreement"] == 1.0
    assert result["trusted"] is True and result["untrusted_reason"] == ""
    low, high = result["ci_clustered"]
    assert low < 75 < high <= 100
    assert low < result["ci"][0] and result["ci"][1] <= high, "two games a question say as much as one: the clusters are wider"


def test_intervals_are_those_of_the_mean():
    # 400 questions, won or lost in both orders: the clusters' standard error is √(.25/400) = 2.5 points, the rows' √(.25/800).
    result = result_of(*[("B>A", "A>B"), ("A>B", "B>A")] * 200)
    low, high = result["ci_clustered"]
    assert (high - low) / 2 == pytest.approx(1.96 * 2.5, rel=0.08)
    low, high = result["ci"]
    assert (high - low) / 2 == pytest.approx(1.96 * 2.5 / math.sqrt(2), rel=0.08)


def test_score_does_not_depend_on_the_order_of_the_games():
    games = games_of(("B>A", "A>>B"), ("A>B", None), ("A=B", "A=B"))
    shuffled = aggregate(games[::-1], num_expected=3)
    assert shuffled["score"] == pytest.approx(aggregate(games, num_expected=3)["score"])


def test_exchanging_the_models_mirrors_the_score():
    mirrored = {"A>B": "B>A", "B>A": "A>B", "A>>B": "B>>A", "B>>A": "A>>B", "A=B": "A=B", None: None}
    verdicts = [("B>A", "A>>B"), ("A>B", None), ("A=B", "A=B")]
    back = result_of(*[tuple(mirrored[verdict] for verdict in pair) for pair in verdicts])["score"]
    assert result_of(*verdicts)["score"] + back == pytest.approx(100)


def test_a_null_drops_its_game_alone_and_is_counted():
    result = result_of(("B>A", None), ("B>A", "A>B"))
    assert result["score"] == 100.0 and result["n_games"] == 4 and result["n_null"] == 1
    assert result["position_bias"] == 0.0, "only questions with both verdicts count"
    assert result["trusted"] is False and "25% of the games have no verdict" in result["untrusted_reason"]


def test_no_verdict_at_all():
    result = result_of((None, None))
    assert result["score"] is None and result["ci"] is None and "no verdict" in result["untrusted_reason"]


def test_missing_questions_or_second_games_are_partial():
    assert result_of(("B>A", "A>B"), num_expected=2)["partial"] is True
    result = aggregate([Judgment("q", 1, "B>A")], num_expected=1)
    assert result["partial"] is True and result["trusted"] is False and "both orders" in result["untrusted_reason"]


def test_a_demonstration_is_never_trusted():
    result = result_of(("B>A", "A>B"), demonstration=True)
    assert result["trusted"] is False and "demonstration" in result["untrusted_reason"]


def test_style_counts():
    text = "# Title\n\nSome **bold** and __bold__ words.\n- one\n 2. two\n```\n# no header\n- no item\n```\n####### no header\n"
    found = style(text)
    assert (found["headers"], found["lists"], found["bold"], found["characters"]) == (1, 2, 2, len(text))
    assert style("Don't stop.")["tokens"] == 5 and style("")["tokens"] == 0


def test_lengths_and_how_often_the_longer_answer_won():
    # The candidate is longer in q0 and wins both games, shorter in q1 and wins one; a tie and equal lengths decide nothing.
    games = games_of(("B>A", "A>B"), ("B>A", "A=B"), ("B>A", "B>A"), styles=[(30, 10), (5, 10), (10, 10)])
    lengths = aggregate(games, num_expected=3)["lengths"]
    assert lengths["candidate"] == {"mean": 15.0, "median": 10.0} and lengths["baseline"]["mean"] == 10.0
    assert lengths["longer_won"] == pytest.approx(2 / 3)
    assert result_of(("B>A", "A>B"))["lengths"] is None


def test_style_control_takes_away_what_a_judge_of_length_gives():
    """Two models as good as the baseline; a judge that goes by length alone, and one of them is mostly longer."""
    rng = random.Random(1)
    games = {}
    for model, longer in (("long", 0.9), ("even", 0.5)):
        styles = [(200, 100) if rng.random() < longer else (100, 200) for _ in range(300)]
        verdicts = [("B>A", "A>B") if candidate > baseline else ("A>B", "B>A") for candidate, baseline in styles]
        # A judge that is not quite strict about it, or no coefficient would be finite.
        verdicts = [pair if rng.random() < 0.85 else pair[::-1] for pair in verdicts]
        games[model] = games_of(*verdicts, styles=styles)
    raw = {model: aggregate(found, num_expected=300)["score"] for model, found in games.items()}
    controlled = style_controlled({model: with_battles(found) for model, found in games.items()})
    assert raw["long"] > 70 and controlled["scores"]["long"] == pytest.approx(50, abs=6)
    assert raw["even"] == pytest.approx(controlled["scores"]["even"], abs=6)
    assert controlled["coefficients"]["tokens"] > 1 and controlled["coefficients"]["bold"] == 0


def test_style_control_changes_nothing_where_styles_are_the_baselines():
    games = games_of(*[("B>A", "A>B")] * 60, *[("A>B", "B>A")] * 40, styles=[(7, 7)] * 100)
    assert style_controlled({"m": with_battles(games)})["scores"]["m"] == pytest.approx(60, abs=0.2), "but for the ridge"
    assert style_controlled({"m": with_battles(games_of(("A>B", "B>A")))}) is None


def test_kappa_by_hand():
    # The textbook's table: 20 both yes, 5 and 10 apart, 15 both no: (0.7 − 0.5) / 0.5.
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohen_kappa(pairs) == pytest.approx(0.4)
    assert cohen_kappa([("a", "a"), ("b", "b")]) == 1.0 and cohen_kappa([("a", "b"), ("b", "a")]) == -1.0
    assert cohen_kappa([("a", "a")] * 5) is None and cohen_kappa([]) is None


def test_two_judges_agreement_is_over_games_that_both_decided():
    first, second = games_of(("A>B", "B>A"), ("A>>B", None)), games_of(("A>B", "B>A"), ("A>B", "A>B"))
    found = judges_agreement(first, second).to_json()
    assert found["n_games"] == 3 and found["kappa_winner"] == 1.0 and found["same_verdict"] == pytest.approx(2 / 3)
    assert found["kappa"] == pytest.approx((2 / 3 - 3 / 9) / (1 - 3 / 9))


def test_gain_against_the_same_baseline():
    base, aligned = games_of(("A>B", "B>A"), ("A>B", "B>A")), games_of(("A>B", "B>A"), ("B>A", "A>B"))
    assert score_delta(base, aligned)["delta"] == 50.0
    low, high = score_delta(base, aligned)["delta_ci"]
    assert low == 0.0 and high == 100.0
    found = paired_delta({"a": 5.0, "b": 6.0, "c": None}, {"a": 7.0, "b": 6.0, "c": 9.0}, scale=20)
    assert found["delta"] == 20.0
    assert paired_delta({}, {}, scale=1) == {"delta": None, "delta_ci": None}
