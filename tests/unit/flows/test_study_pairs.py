"""What each of the project's studies compares, and what it tests: all of it, by name."""

import pytest

from evaluation.report.study_facts import COLUMNS
from evaluation.report.study_pairs import Candidate, study_pairs
from evaluation.report.swept import SweepFacts
from flows.dag.points import make_points
from flows.errors import RecipeError
from flows.recipe import studies
from flows.recipe.sweep_file import load_sweep
from tasks.keys import ROOT

PAIRS = {
    "domains": ["numbers-dpo / numbers-bnf", "capitals-dpo / capitals-bnf"],
    "hybrid": [f"contrast-weight{weight} / contrast-weight0" for weight in ("0.1", "0.3", "1")],
    "near_identical": ["dpo / bnf", "dpop / bnf", "simpo / bnf", "topr / bnf"],
    "noise": [
        "dpo 0 0 / bnf 0 0",
        "dpo 0 0.4 / bnf 0 0.4",
        "dpo 0.4 0 / bnf 0.4 0",
        "dpo 0.4 0.4 / bnf 0.4 0.4",
        "bnf 0 0.4 / bnf 0 0",
        "bnf 0.4 0 / bnf 0 0",
        "bnf 0.4 0.4 / bnf 0 0",
        "dpo 0 0.4 / dpo 0 0",
        "dpo 0.4 0 / dpo 0 0",
        "dpo 0.4 0.4 / dpo 0 0",
    ],
    "objectives": ["dpo / bnf", "simpo / bnf", "kto / bnf", "sft / bnf"],
    "on_policy": [
        "bnf-rounds / bnf-offline",
        "reinforce-rounds / reinforce-offline",
        "ppo-reused / ppo-once",
        "bnf-rounds / bnf-positives",
        "reinforce-offline / bnf-offline",
        "reinforce-rounds / bnf-rounds",
        "topr-rounds / bnf-rounds",
    ],
    "reference": ["own-sft / base", "temperature-0.5 / base", "temperature-2 / base", "rounds-refreshed / rounds-fixed"],
    "unpaired": [
        "bnf-masked50 / bnf-masked0",
        "bnf-masked100 / bnf-masked0",
        "bnf-masked100 / bnf-prompts64",
        "dpo-masked0 / bnf-masked0",
        "dpo-prompts64 / bnf-masked50",
        "kto-masked0 / bnf-masked0",
        "kto-masked50 / bnf-masked50",
        "kto-masked100 / bnf-masked100",
    ],
}
TESTS = {
    **{name: ["gain", "tax"] for name in PAIRS},
    "near_identical": ["chosen_shift", "rejected_shift", "eval_accuracy"],
    "noise": ["gain", "loss_std"],
}


def test_every_study_is_among_them():
    assert list(PAIRS) == studies.study_names()


@pytest.mark.parametrize("name", PAIRS)
def test_what_a_study_compares_and_tests(name):
    sweep = load_sweep(str(ROOT / studies.study_path(name)))
    study = sweep.study.facts()
    over = sweep.select.over if sweep.select else []
    # As if the first rate of each objective had been chosen.
    points = [point for point in make_points(sweep) if all(point.settings[key] == sweep.axes[key][0] for key in over)]
    settings = {point.label: Candidate(point.label, point.objective, point.settings) for point in points}
    facts = SweepFacts(name, "", sweep.axes, over=over, variants=sweep.variants)
    pairs = study_pairs(list(settings.values()), facts, study.compare)
    short = {label: label.replace("flip-fraction", "").replace("contradict-fraction", "") for label in settings}
    short |= {label: label.removesuffix(" lr1e-5") for label in settings if name == "objectives"}
    assert [f"{short[one]} / {short[other]}" for one, other in pairs] == PAIRS[name]
    assert study.tests == TESTS[name]


def test_the_rule_where_bnf_has_no_setting_alike_and_where_there_is_no_bnf():
    facts = SweepFacts("s", "", {})

    def of(*settings):
        return study_pairs([Candidate(f"{one} {x}", one, {"train.objective": one, "x": x}) for one, x in settings], facts)

    # dpo at 2 has no BNF alike and is the first of DPO; at 3 there is its first.
    assert of(("bnf", 1), ("dpo", 2), ("dpo", 3)) == [("dpo 2", "bnf 1"), ("dpo 3", "dpo 2")]
    assert of(("kto", 1), ("kto", 2), ("dpo", 1), ("dpo", 2)) == [
        *(("dpo 1", "kto 1"), ("dpo 2", "kto 2"), ("kto 2", "kto 1"), ("dpo 2", "dpo 1"))
    ]
    assert of(("bnf", 1)) == [] and study_pairs([], facts) == []


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("tests: [kl]", "tests must be among the columns, got 'kl'; add it to columns, or remove it"),
        ("tests: [collapsed]", "study.tests.* must be .*'gain'.*, got 'collapsed'"),
        ("tests: [gain, gain]", "must have each column once, got 'gain' twice; remove one"),
        ("compare: [[a, c]]", r"study.compare must be names of sweep.variant \(a, b\), got 'c'; correct it"),
        ("compare: [[a, a]]", "study.compare must have two variants in a pair, got 'a' twice; name its opponent"),
        ("compare: [[b, a], [b, a]]", "must have each pair once"),
        ("compare: [[b]]", "study.compare"),
    ],
)
def test_a_section_whose_tests_break_a_rule_is_refused(tmp_path, section, message):
    (tmp_path / "base.yaml").write_text("model_name_or_path: m\n")
    file = tmp_path / "s.yaml"
    file.write_text(
        "base: base.yaml\nstudy:\n  title: T\n  question: Q?\n  design: [Fixed.]\n  columns: [gain, tax, collapsed]\n"
        f"  {section}\nsweep:\n  variant: [{{name: a, seed: 1}}, {{name: b, seed: 2}}]\n"
    )
    with pytest.raises(RecipeError, match=message):
        load_sweep(str(file))
    file.write_text(file.read_text().replace(section, "compare: [[b, a]]"))
    assert load_sweep(str(file)).study.facts().compare == [("b", "a")]


def test_every_test_is_a_column_that_says_what_a_difference_is_of():
    assert all(
        column.of for columns in COLUMNS.values() for column in columns if column.is_tested and column.key != "collapsed"
    )
