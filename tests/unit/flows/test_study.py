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


def test_a_difference_by_hand(monkeypatch):
    """Three seeds whose masses differ by 0.1, 0.2 and 0.3 on average over the steps: the mean is 0.2, its standard error 0.1 / √3, and
    Student's quantile of two degrees of freedom 4.302653. So 0.2 is no difference, and with the last seed at 0.15 it is one."""
    monkeypatch.setattr(study_page, "_SEEDS", range(3))

    def of(*means):
        # Two steps, whose average is a seed's mean.
        mass = torch.stack([torch.tensor(means), torch.tensor(means)]).double() + torch.tensor([[-0.05], [0.05]])
        return Curves(reward=mass, mass=mass, kl=mass, reverse_kl=mass)

    still = of(0.2, 0.2, 0.2)
    unsure = study_page._compared("BNF", "DPO", "the loss", of(0.3, 0.4, 0.5), still)
    assert unsure.interval == pytest.approx((0.2 - 4.302653 * 0.1 / 3**0.5, 0.2 + 4.302653 * 0.1 / 3**0.5), abs=1e-6)
    assert (unsure.verdict, unsure.row()["mass"], unsure.row()["seeds"]) == ("no difference", "+0.200 [-0.048, +0.448]", "3/3")
    # 0.1, 0.2 and 0.15: mean 0.15, standard error 0.05 / √3, and so from 0.026 to 0.274.
    sure = study_page._compared("BNF", "DPO", "the loss", of(0.3, 0.4, 0.35), still)
    assert (sure.verdict, sure.row()["mass"]) == ("faster", "+0.150 [+0.026, +0.274]")
    slower = study_page._compared("DPO", "BNF", "the loss", still, of(0.3, 0.4, 0.35))
    assert (slower.verdict, slower.row()["mass"], slower.row()["seeds"]) == ("slower", "-0.150 [-0.274, -0.026]", "0/3")


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
