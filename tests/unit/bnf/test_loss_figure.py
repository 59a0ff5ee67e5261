"""The curves of docs/bnf.md are the paper's derivative, and its table is right."""

import re
from fractions import Fraction

import pytest
import torch

from bnf.process import ROOT
from tests.structure.loss_figure import push, weights


@pytest.mark.parametrize("r", [0.1, 0.5, 0.9])
def test_the_push_is_the_papers_derivative(r):
    p = torch.tensor([0.01, 0.05, 0.3, 0.6, 0.95], dtype=torch.float64)
    expected = torch.where(p <= r, p * (1 - r) / r, 1 - p)
    torch.testing.assert_close(push(p, r), expected)


def test_the_table_of_the_page_is_right():
    rows = re.findall(r"^\| (0\.\d+) \| (\S+) \| (\S+) \| (\S+) \|$", (ROOT / "docs" / "bnf.md").read_text(), re.M)
    assert len(rows) == 3
    for p, odds, weight, pushed in rows:
        value = torch.tensor(float(p), dtype=torch.float64)
        assert Fraction(odds) == Fraction(p) / (1 - Fraction(p))
        assert float(weights(value, 0.5)) == pytest.approx(float(Fraction(weight)))
        assert float(push(value, 0.5)) == pytest.approx(float(pushed))
