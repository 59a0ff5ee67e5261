"""Charts as inline SVG, numbers and foreign text as they are shown."""

import math
import re
import time
import xml.etree.ElementTree as ET

import pytest

from evaluation.formats import cut, difference, duration, interval, number, p_value, signed, visible
from evaluation.report import charts
from evaluation.report.charts import MAX_POINTS, Curve

LOSS = [Curve("loss", "loss", "aligned")]


def test_a_chart_is_inert_markup_in_the_pages_colours() -> None:
    chart = charts.differences([("gsm8k (sample)", 3.0, [1.0, 5.0], "gain"), ("<b>$x^2$\u202e", -2.0, None, "noise")])
    tree = ET.fromstring(chart)
    texts = ["".join(element.itertext()).strip() for element in tree.iter() if element.tag == "text"]
    assert "gsm8k (sample)" in texts and "+3.0 [+1.0, +5.0]" in texts and "−2.0" in texts
    # No element of their own, no formula, nothing invisible.
    assert "<b>$x^2$⟨U+202E⟩" in texts
    assert {element.tag for element in tree.iter()} <= {"svg", "g", "defs", "path", "use", "text", "clipPath", "rect"}
    assert "var(--gain)" in chart and "var(--muted)" in chart
    # Words have the page's ground behind them, so that the line at zero does not run through them.
    assert chart.count("var(--ground)") == 4
    # Every colour is the page's, none is fixed.
    assert not re.search(r"#[0-9a-f]{6}\b", chart)
    assert "DejaVu" not in chart


def test_curves_leave_out_what_is_no_number() -> None:
    steps = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": math.nan}, {"step": 3, "loss": None}, {"step": 4}]
    assert charts.curves(steps, LOSS, "Loss") is not None
    assert charts.curves(steps[1:], LOSS, "Loss") is None
    assert charts.points_of(steps, "loss") == [(1.0, 1.0)]


def test_a_histogram_draws_shares_between_edges() -> None:
    chart = charts.histogram([-1.0, 0.0, 1.0], [([1, 2, 4, 1], "preferred"), ([0, 0, 0, 0], "dispreferred")])
    bars = re.findall(r'<path d="([^"]*)"[^>]*fill: var\(--preferred\)', chart)
    heights = []
    for bar in bars:
        ys = [float(y) for y in re.findall(r"[ML] [-\d.]+ ([-\d.]+)", bar)]
        heights.append(max(ys) - min(ys))
    assert [height / heights[0] for height in heights] == pytest.approx([1, 2, 4, 1], rel=1e-4)
    assert "% of tokens" in chart and ">−1<" not in chart and ">0<" in chart


def test_long_runs_are_averaged_in_bins() -> None:
    steps = [{"step": step, "loss": float(step % 2)} for step in range(1, 10 * MAX_POINTS + 1)]
    points = charts.points_of(steps, "loss")
    assert len(points) == MAX_POINTS
    assert points[0] == (5.5, 0.5)
    started = time.monotonic()
    chart = charts.curves(steps, LOSS, "Loss")
    assert chart is not None and len(chart) < 40_000 and time.monotonic() - started < 5


def test_numbers() -> None:
    assert [number(None), number(84.375), number(-3), number(-0.04), number(0.1234, 3)] == ["–", "84.4", "−3.0", "0.0", "0.123"]
    assert [signed(None), signed(1), signed(-1.25, 2), signed(-0.04)] == ["–", "+1.0", "−1.25", "0.0"]
    assert [interval(None), interval([1, 2.25]), interval([-1, 2], with_sign=True)] == ["", "[1.0, 2.2]", "[−1.0, +2.0]"]
    assert [difference(1, [0, 2]), difference(1, None), difference(None, None)] == ["+1.0 [0.0, +2.0]", "+1.0", "–"]
    assert [p_value(None), p_value(0.0004), p_value(0.0314), p_value(1.0)] == ["–", "<0.001", "0.031", "1.000"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.04, "0.0 s"), (9.96, "10 s"), (59.7, "1 min 00 s"), (125, "2 min 05 s"), (3725, "1 h 02 min")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_invisible_characters_become_visible_and_others_stay() -> None:
    assert visible("a\n\tb") == "a\n\tb"
    assert visible("\x00\r\x7f\x85") == "␀␍␡⟨U+0085⟩"
    assert visible("\u202e\u200b\ufeff\u2028\ud800") == "⟨U+202E⟩⟨U+200B⟩⟨U+FEFF⟩⟨U+2028⟩⟨U+D800⟩"
    for text in ("größer", "数学", "👩‍🔬", "−½"):
        assert visible(text) == text


def test_cut_by_characters_and_by_lines() -> None:
    assert cut("abc", 3, 5) == ("abc", 0)
    assert cut("abcdef", 4, 5) == ("abcd", 2)
    assert cut("a\nb\nc", 10, 2) == ("a\nb", 2)
