"""The report: self-contained, inert whatever models wrote, the same bytes for the same inputs."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from evaluation.report.build import build_report
from evaluation.report.examples import examples
from evaluation.report.inputs import ReportInputs
from evaluation.report.summary import summarize, table_rows
from tests.unit.evaluation.report_folders import analyzed, inputs, judged, prepared, scored, searched, trained

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }} & \x00\x1b[31m \u202egnp.exe \ud800 \r ok"


class Page(HTMLParser):
    """Elements, attributes and text, as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()
        if tag == "td":
            self.text += " "

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def built(folder: Path, collected: ReportInputs) -> tuple[str, Page]:
    build_report(collected, folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not page.open
    return html, page


def everything(folder: Path, texts: dict[str, str] | None = None) -> ReportInputs:
    benchmarks = {
        "crux": {
            "base": scored(folder / "crux" / "base", "++----00", texts=texts),
            "aligned": scored(folder / "crux" / "aligned", "-+++++-0", texts=texts),
        },
        "gsm8k": {
            "base": scored(folder / "gsm8k" / "base", "+-0", source="sample", n_benchmark=1319),
            "aligned": scored(folder / "gsm8k" / "aligned", "+-+", source="sample", n_benchmark=1319),
        },
    }
    return inputs(
        folder,
        benchmarks,
        train=trained(folder / "train"),
        data=prepared(folder / "data"),
        shifts=analyzed(folder / "shifts"),
        judges={"arena_hard": judged(folder / "judge", [("A>B", "A>B"), ("B>A", None)])},
    )


def test_the_report_needs_nothing_but_itself(tmp_path: Path) -> None:
    html, page = built(tmp_path / "out", everything(tmp_path))
    assert html.startswith("<!doctype html>")
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    links = [value for _, name, value in page.attributes if name in ("href", "src", "xlink:href", "action")]
    assert links and all(value and value.startswith("#") for value in links)
    assert "://" not in html and "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    # The differences, loss, rewards, gradient norm, two of the shifts, three of the data; what was not logged has no chart.
    assert page.tags.count("svg") == 9


def test_what_is_in_it(tmp_path: Path) -> None:
    _, page = built(tmp_path / "out", everything(tmp_path))
    text = " ".join(page.text.split())
    for expected in (
        "gsm8k (sample)",
        "+37.5 [",
        "8/8",
        "3/3 of 1319",
        "items only",
        "Demonstration.",
        "arena_hard (sample)",
        "wrong → right",
        "right → wrong",
        "8 prompt groups",
        "20.0 % were lost",
        "−1.250 → −0.750",
        "−3.00 → −5.00",
        "37.5 0.500",
        "<b>the⏎⟨U+202E⟩dispreferred −1.50 → −2.50",
        "model_name_or_path: models/a-model",
        "d" * 64,
        "2.13.0",
        "2.5 s of work",
        "kkkkkkkkkkkk",
    ):
        assert expected in text, expected


def test_what_models_wrote_is_inert_and_visible(tmp_path: Path) -> None:
    collected = everything(tmp_path, {f"i{index}": HOSTILE for index in range(8)})
    collected = replace(
        collected, name=HOSTILE, models={**collected.models, "base": HOSTILE}, machine={**collected.machine, "cpu": HOSTILE}
    )
    collected.recipe["model_name_or_path"] = HOSTILE
    collected.stages[0]["model"] = HOSTILE
    html, page = built(tmp_path / "out", collected)
    assert "script" not in page.tags and "img" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text and "{{ 7*7 }}" in page.text
    assert "␀␛[31m ⟨U+202E⟩gnp.exe ⟨U+D800⟩ ␍ ok" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)


def test_the_table_that_prefect_shows_has_nothing_that_models_wrote(tmp_path: Path) -> None:
    rows = table_rows(summarize(everything(tmp_path, {f"i{index}": HOSTILE for index in range(8)})))
    texts = [text for row in rows for pair in row.items() for text in pair]
    assert texts and not [text for text in texts if re.search("alert|script|gnp|[\x00-\x1f\x7f-\x9f\u202e]", text)]


def test_a_completion_of_megabytes_is_cut_and_says_so(tmp_path: Path) -> None:
    collected = everything(tmp_path, {"i0": "x" * 5_000_000, "i1": "\n" * 5_000_000})
    html, page = built(tmp_path / "out", collected)
    assert len(html) < 400_000
    assert "4,998,500 more characters are left out here" in page.text
    assert "4,999,961 more characters are left out here" in page.text


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    collected = everything(tmp_path)
    for name in ("one", "two"):
        build_report(collected, tmp_path / name)
    for file in ("report.html", "summary.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["report.html", "summary.json"]


def test_summary_and_report_agree(tmp_path: Path) -> None:
    summary = build_report(everything(tmp_path), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    assert summary["benchmarks"]["crux"]["delta"] == 37.5


@pytest.mark.parametrize("outcomes", ["+-0", "---"])
def test_one_model_alone(outcomes: str, tmp_path: Path) -> None:
    collected = inputs(tmp_path, {"crux": {"base": scored(tmp_path / "crux", outcomes)}})
    _, page = built(tmp_path / "out", collected)
    assert "Alignment tax" not in page.text and "aligned" not in page.text
    assert "completion of i1" in page.text and "svg" not in page.tags


def test_a_run_that_only_trained(tmp_path: Path) -> None:
    _, page = built(tmp_path / "out", inputs(tmp_path, {}, train=trained(tmp_path / "train"), stages=[]))
    assert "4 steps" in page.text and "Examples" not in page.text


def test_what_was_run_in_words(tmp_path: Path) -> None:
    collected = inputs(tmp_path, {}, train=trained(tmp_path / "train"), data=prepared(tmp_path / "data"))
    settings = {"learning_rate": 2e-5, "lr_scheduler_type": "cosine", "objective_options": {"beta": 0.1}}
    collected.recipe.update(
        {
            "data": {"source": "pairs", "path": "pairs.jsonl"},
            "prepare": {"mask_fraction": 0.25},
            "train": {"objective": "dpo", "label_weighting": "none", **settings},
        }
    )
    _, page = built(tmp_path / "out", collected)
    for expected in (
        "pairs from pairs.jsonl; 25 % of the pairs keep one side only",
        "8 prompt groups: 9 preferred and 7 dispreferred completions, not paired",
        "dpo, beta 0.1",
        "4 steps of about 2 prompt groups, learning rate 5e-06 in the first step, 2e-05 at most, 1e-07 in the last (cosine, warm-up "
        "steps: 2), seed 0",
    ):
        assert expected in page.text, expected


def test_shifts_of_one_label_alone(tmp_path: Path) -> None:
    collected = inputs(tmp_path, {}, shifts=analyzed(tmp_path / "one", ["preferred"]), stages=[])
    _, page = built(tmp_path / "out", collected)
    assert "preferred completions, largest rises" in page.text and "dispreferred" not in page.text
    path = tmp_path / "one" / "shifts.json"
    path.write_text(path.read_text().replace('"policy": -0.75', '"policy": -Infinity'))
    assert "−1.250 → –" in built(tmp_path / "out", collected)[1].text
    collected = replace(collected, shifts=analyzed(tmp_path / "none", []))
    assert "Likelihood" not in built(tmp_path / "out", collected)[1].text


def test_examples_are_chosen_by_kind_and_not_by_place(tmp_path: Path) -> None:
    marks = {"base": "++++++----------", "aligned": "---+++++++------"}
    folders = {model: scored(tmp_path / model, outcomes) for model, outcomes in marks.items()}
    scores = {model: pair[0] for model, pair in folders.items()}
    generations = {model: pair[1] for model, pair in folders.items()}
    found = examples(scores, generations)
    assert [example.kind for example in found] == [
        "wrong → right",
        "wrong → right",
        "right → wrong",
        "right → wrong",
        "right both times",
        "wrong both times",
    ]
    for example in found:
        index = int(example.id[1:])
        assert [answer.outcome == "correct" for answer in example.answers] == [marks[m][index] == "+" for m in marks]
        assert [answer.completion.text for answer in example.answers] == [f"completion of {example.id}"] * 2
        assert dict(example.fields)["question"].text == f"question {example.id}"
    # The order of the files doesn't matter.
    for pair in folders.values():
        for path in (Path(pair[0]) / "scores.jsonl", Path(pair[1]) / "completions.jsonl"):
            path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    assert examples(scores, generations) == found


def test_items_without_a_completion_are_no_examples(tmp_path: Path) -> None:
    score, generation = scored(tmp_path, "+")
    (Path(generation) / "completions.jsonl").write_text("")
    assert examples({"base": score}, {"base": generation}) == []
    assert examples({"base": score}, {}) == []


def test_the_data_section_has_the_ledgers_counts_and_what_the_benchmarks_share_with_the_data(tmp_path):
    contamination = {
        "gsm8k": searched(tmp_path / "c1", "gsm8k", exact=2, overlapping=1),
        "crux": searched(tmp_path / "c2", "crux", exact=0, overlapping=0),
    }
    collected = inputs(
        tmp_path,
        {"gsm8k": {"base": scored(tmp_path / "base", "+-")}},
        data=prepared(tmp_path / "data"),
        contamination=contamination,
    )
    collected.recipe["data"] = [
        {"source": "pairs", "path": "a.jsonl", "weight": 2.0},
        {"source": "thumbs", "path": "b.jsonl", "weight": None},
    ]
    collected.recipe["prepare"] = {"mask_fraction": 0.25, "flip_fraction": 0.1}
    _, page = built(tmp_path / "report", collected)
    text = " ".join(page.text.split())
    assert (
        "pairs from a.jsonl (weight 2), thumbs from b.jsonl; 25 % of the pairs keep one side only; 10 % of the verdicts" in text
    )
    for shown in (
        "preferred only 2",
        "contradictions 3",
        "flipped 2",
        "still there 4",
        "Completions by length",
        "zh 1",
        "Completions by length",
        "gsm8k 20 19 2 1 3",
        "1 of gsm8k not compared: their texts are too short, and stand in anything.",
    ):
        assert shown in text
    assert "gsm8k: the training data hold 2 of its 20 items word for word, and share 13 words in succession with 1 more" in text
    assert "crux: the training data" not in text
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["contamination"]["gsm8k"]["num_exact"] == 2
