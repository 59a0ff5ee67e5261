"""The pages of items: all items as data that nothing can break out of, one script, and a link from the report."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from evaluation.report import item_pages
from evaluation.report.build import build_report
from evaluation.report.inputs import ReportInputs
from evaluation.report.item_pages import as_data, build_item_pages
from tests.unit.evaluation.report_folders import inputs, scored
from tests.unit.evaluation.test_report import HOSTILE, Page

BREAKING_OUT = "</script><img src=x onerror=alert(1)><!--<script>alert(2)</SCRIPT >" + HOSTILE


def collected(folder: Path, texts: dict[str, str] | None = None) -> ReportInputs:
    return inputs(
        folder,
        {
            "crux": {
                "base": scored(folder / "crux" / "base", "+--0", texts=texts, source="sample"),
                "aligned": scored(folder / "crux" / "aligned", "-+-+", texts=texts, source="sample"),
            },
            "gsm8k": {"base": scored(folder / "gsm8k" / "base", "+-0")},
        },
    )


def read(folder: Path, name: str = "crux") -> tuple[str, list[dict[str, Any]]]:
    """A page's HTML, and its data as a browser would find them: up to the first end of a script element."""
    html = (folder / "items" / f"{name}.html").read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="items">(.*?)</script', html, re.DOTALL | re.IGNORECASE)
    assert data is not None
    return html, json.loads(data[1])


def test_a_page_has_every_item_and_the_report_links_it(tmp_path: Path) -> None:
    made = collected(tmp_path)
    pages = build_item_pages(made, tmp_path / "out")
    assert pages == {"crux": "items/crux.html", "gsm8k": "items/gsm8k.html"}
    assert {path.name for path in (tmp_path / "out" / "items").iterdir()} == {"crux.html", "gsm8k.html"}
    html, items = read(tmp_path / "out")
    assert "<h1>crux (sample)</h1>" in html and 'href="../report.html"' in html
    assert [(one["id"], one["filters"]) for one in items] == [
        ("i0", ["right→wrong", "changed", "wrong"]),
        ("i1", ["wrong→right", "changed", "right"]),
        ("i2", ["wrong"]),
        ("i3", ["wrong→right", "changed", "right"]),
    ]
    assert re.findall(r'value="([^"]*)" />\S+ <span class="count">(\d+)', html) == [
        ("wrong→right", "2"),
        ("right→wrong", "1"),
        ("changed", "3"),
        ("wrong", "2"),
        ("right", "2"),
        ("no-answer", "0"),
    ]
    assert items[0]["fields"] == [["question", "question i0", 0], ["answer", "42", 0]]
    assert items[3]["replies"][0] == {
        "model": "base",
        "outcome": "no_answer",
        "answer": None,
        "rule": "json",
        "ended": "length",
        "tokens": 10,
        "thought": None,
        "completion": ["completion of i3", 0],
    }
    assert "changed" not in read(tmp_path / "out", "gsm8k")[0].split("<script")[0]
    build_report(made, tmp_path / "out", pages)
    report = (tmp_path / "out" / "report.html").read_text()
    assert '<a href="items/crux.html">crux (sample)</a>, <a href="items/gsm8k.html">gsm8k</a>' in report
    build_report(made, tmp_path / "alone")
    assert "items/" not in (tmp_path / "alone" / "report.html").read_text()


def test_what_models_wrote_stays_data(tmp_path: Path) -> None:
    build_item_pages(collected(tmp_path, {f"i{number}": BREAKING_OUT for number in range(4)}), tmp_path / "out")
    html, items = read(tmp_path / "out")
    text, left_out = items[0]["replies"][1]["completion"]
    assert text.startswith("</script><img src=x onerror=alert(1)><!--<script>alert(2)</SCRIPT >") and left_out == 0
    assert "␀␛[31m ⟨U+202E⟩gnp.exe ⟨U+D800⟩ ␍ ok" in text
    page = Page(html)
    assert "img" not in page.tags and page.tags.count("script") == 2 and not page.open
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<" not in as_data([BREAKING_OUT, {"<": "<!--"}])


def test_the_policy_lets_the_pages_own_script_run_alone(tmp_path: Path) -> None:
    build_item_pages(collected(tmp_path), tmp_path / "out")
    html, _ = read(tmp_path / "out")
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert ("meta", "content", policy) in Page(html).attributes
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|Function\(|fetch\(|import", script)
    assert "://" not in html


def test_many_long_texts_are_cut_to_the_pages_room_and_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = collected(tmp_path, {f"i{number}": "x" * 3000 for number in range(4)})
    build_item_pages(made, tmp_path / "out")
    html, items = read(tmp_path / "out")
    assert [len(one["completion"][0]) for one in items[0]["replies"]] == [1500, 1500] and "cut at 1500 characters" in html
    assert items[0]["replies"][0]["ends"] == {"thought": 0, "completion": 500}, "a completion's answer is at its end"
    # Eight completions of 700 characters, and the fields: 5652; of 1000 they would be 8052.
    monkeypatch.setattr(item_pages, "PAGE_CHARACTERS", 6000)
    build_item_pages(made, tmp_path / "small")
    html, items = read(tmp_path / "small")
    assert items[0]["replies"][0]["completion"] == ["x" * 700, 2300] and "cut at 700 characters" in html


def test_a_benchmark_without_completions_here_has_no_page(tmp_path: Path) -> None:
    made = collected(tmp_path)
    assert isinstance(made.generations, dict)
    del made.generations["crux"]
    assert build_item_pages(made, tmp_path / "out") == {"gsm8k": "items/gsm8k.html"}
    assert build_item_pages(inputs(tmp_path, {}), tmp_path / "none") == {} and not (tmp_path / "none").exists()
