"""`bnf study`: its tables, page and figure."""

import re
from collections import Counter

import pytest
import torch

from bnf.studies.simulation import Curves
from flows.commands import study_page
from flows.commands.studying import study
from flows.errors import RecipeError
from tasks.keys import ROOT


@pytest.fixture
def results(monkeypatch):
    monkeypatch.setattr(study_page, "_STEPS", 4)
    monkeypatch.setattr(study_page, "_SEEDS", range(3))
    return study_page.run("bandit")


def test_the_page_says_where_bnf_loses_first(results, tmp_path):
    (tmp_path / "images").mkdir()
    page, figure = study_page.write(results, tmp_path)
    text = page.read_text()
    assert text.index("Where BNF loses") < text.index("## The question") < text.index("## What holds")
    for heading in ("### Likely peak, off-policy", "### Rare peak, on-policy", "### Compared"):
        assert heading in text
    assert figure.read_text().startswith("<?xml") and "../images/bandit.svg" in text


def test_a_difference_is_only_said_where_its_interval_is_off_zero(results):
    for one in results.comparisons():
        low, high = one.interval
        assert low <= one.mean <= high
        assert one.verdict == ("faster" if low > 0 else "slower" if high < 0 else "no difference")
    assert {row["seeds"].partition("/")[2] for row in results.comparison_rows()} == {"3"}


def test_seeds_that_never_arrive_count_in_the_median(monkeypatch):
    monkeypatch.setattr(study_page, "_SEEDS", range(5))
    # Seeds 0 to 2 arrive at steps 1, 2 and 3; seeds 3 and 4 never do.
    mass = torch.tensor([[0.0] * 5, [0.9, 0, 0, 0, 0], [0.9, 0.9, 0, 0, 0], [0.9, 0.9, 0.9, 0.4, 0]])
    row = study_page._row("BNF", Curves(reward=mass, mass=mass, kl=mass, reverse_kl=mass))
    assert (row["steps to mass 0.5"], row["seeds that end there"]) == ("3", "3/5")
    mass[:, 2] = 0
    assert study_page._row("BNF", Curves(reward=mass, mass=mass, kl=mass, reverse_kl=mass))["steps to mass 0.5"] == "never"


def test_an_unknown_study_is_refused():
    with pytest.raises(RecipeError, match=r"NAME must be one of bandit, length, .*hybrid.*, got 'chess'"):
        study("chess", write_page=False, as_json=True)


def test_the_index_of_the_results_counts_as_the_pages_do():
    results = ROOT / "docs" / "results"
    row = re.compile(r"\| BNF \(\w+, (\S+)\) \| (.+?) \| .* \| (faster|slower|no difference) \|")
    found = Counter(row.findall("".join((results / f"{name}.md").read_text() for name in study_page.STUDIES)))
    opponents = dict.fromkeys(opponent for _, opponent, _ in found)
    opponents.pop("off-policy")
    index = (results / "README.md").read_text()
    for opponent in opponents:
        off, on = (
            " / ".join(str(found[sampler, opponent, verdict]) for verdict in ("faster", "slower", "no difference"))
            for sampler in ("off-policy", "on-policy")
        )
        assert re.search(rf"\| {opponent}( \(.*?\))? \| {off} \| {on} \|", index), opponent
