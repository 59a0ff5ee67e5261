"""The page: its sections are a list, failures are all there, tokens have their numbers, and it works without a script."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bnf.analysis import token_shifts as analysis
from bnf.analysis.token_shifts import ShownCompletion, ShownToken
from evaluation.report import build, examples, judged_answers, sections
from evaluation.report.examples import browse
from evaluation.report.excerpts import gist
from evaluation.report.inputs import ReportInputs
from evaluation.report.sections import SECTIONS, Section
from evaluation.report.summary import summarize
from tasks.keys import code_digests
from tests.unit.evaluation.report_folders import inputs, judged, scored, trained, write_lines, write_object
from tests.unit.evaluation.test_report import HOSTILE, Page, built, everything

TEMPLATES = Path(build.__file__).parent / "templates"


def test_every_section_has_a_template_and_every_template_a_section() -> None:
    assert {path.name for path in TEMPLATES.glob("section_*")} == {section.template for section in SECTIONS}
    assert len({section.anchor for section in SECTIONS}) == len(SECTIONS)


def test_one_entry_adds_a_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = Section("groups", "Mine", lambda inputs, summary: {"groups": []})
    monkeypatch.setattr(build, "SECTIONS", (SECTIONS[0], new, SECTIONS[-1]))
    _, page = built(tmp_path / "out", everything(tmp_path))
    assert [value for tag, name, value in page.attributes if tag == "a" and name == "href"] == ["#results", "#groups", "#run"]
    assert [value for tag, name, value in page.attributes if tag == "section" and name == "id"] == ["results", "groups", "run"]


def test_a_run_that_only_trained_has_no_other_section(tmp_path: Path) -> None:
    _, page = built(tmp_path / "out", inputs(tmp_path, {}, train=trained(tmp_path / "train"), stages=[]))
    assert [value for tag, name, value in page.attributes if tag == "section" and name == "id"] == ["training", "run"]


def test_every_failure_is_in_the_page_under_its_outcome(tmp_path: Path) -> None:
    marks = {"base": "+" * 30 + "-" * 30 + "0" * 20 + "+" * 20, "aligned": "-" * 30 + "+" * 30 + "0" * 20 + "+" * 20}
    folders = {model: scored(tmp_path / model, outcomes) for model, outcomes in marks.items()}
    collected = inputs(tmp_path, {"crux": folders})
    found = browse({"crux": (collected.scores["crux"], collected.generations["crux"])})["crux"]
    ids = [one.id for one in (*found.chosen, *found.listed)]
    assert len(ids) == len(set(ids)) and {f"i{n}" for n in range(80)} <= set(ids)
    assert {one.key: (one.number, one.num_shown) for one in found.choices} == {
        "gained": (30, 30),
        "lost": (30, 30),
        "wrong": (20, 20),
        "none": (20, 20),
        "right": (20, 1),
    }
    assert [one.choices[0] for one in found.listed] == ["lost"] * 28 + ["wrong"] * 19 + ["gained"] * 28
    assert found.num_left_out == 0 and not found.is_cut
    html, page = built(tmp_path / "out", collected)
    # A rule of the style sheet hides what was not picked, whatever the reader picks.
    for key in {one.key for one in found.choices} | set(judged_answers._CHOICES):
        assert re.search(rf"\.browse:has\(> \.pick \.{key}:checked\) > \.item:not\(\.{key}\)", html), key
    assert html.count('class="item lost"') == 30 and html.count('class="item wrong none"') == 20
    assert all(f"completion of i{n}" in page.text for n in range(80))


def test_the_page_is_bounded_and_says_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {
        name: {"base": scored(tmp_path / name, "-" * n + "+", texts={f"i{k}": "x" * 1_000_000 for k in range(3)})}
        for name, n in (("crux", 60), ("gsm8k", 30))
    }
    collected = inputs(tmp_path, folders)
    monkeypatch.setattr(examples, "PAGE_CHARACTERS", 5_000)
    found = browse({name: (collected.scores[name], collected.generations[name]) for name in folders})
    assert found["crux"].most_characters < 1000 and found["crux"].is_cut
    assert sum(one.num_characters for each in found.values() for one in each.listed) <= 5_000
    monkeypatch.setattr(examples, "PAGE_ITEMS", 42)
    _, page = built(tmp_path / "out", collected)
    text = " ".join(page.text.split())
    assert "The page has no room for 29 more failed items" in text and "The page has no room for 13 more" in text
    assert "are cut at" in text


def test_judged_answers_have_the_judges_words(tmp_path: Path) -> None:
    _, page = built(tmp_path / "out", with_judge(tmp_path, "B is nicer. [[B>A]]"))
    text = " ".join(page.text.split())
    # With the baseline as A the candidate won, and with the candidate as A it lost: in each order another.
    assert "tie, or each order another 1" in text and "what is it?" in text
    assert "won B>A, where A is base B is nicer. [[B>A]]" in text and "lost B>A, where A is aligned B is nicer." in text
    assert "base's own" in text and "aligned's own" in text


def with_judge(folder: Path, reply: str) -> ReportInputs:
    collected = everything(folder)
    judge = judged(folder / "a-judge", [("B>A", "B>A")])
    games = [json.loads(line) | {"reply": reply} for line in (judge / "games.jsonl").read_text().splitlines()]
    write_lines(judge / "games.jsonl", games)
    places = {}
    for model in ("base", "aligned"):
        places[model] = folder / "answers" / model
        write_lines(places[model] / "completions.jsonl", [{"id": "q0", "completion": f"{model}'s own"}])
        write_lines(places[model] / "items.jsonl", [{"id": "q0", "prompt": "what is it?"}])
    return replace(collected, judges={"arena_hard": judge}, generations={**collected.generations, "arena_hard": places})


def test_ratings_are_picked_by_their_height(tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    games = [
        {"question_id": f"q{n}", "candidate": "base", "game": 1, "verdict": verdict, "reply": "so", "finish_reason": "stop"}
        for n, verdict in enumerate((2.0, 6.0, 9.0, None))
    ]
    write_lines(folder / "games.jsonl", games)
    found = judged_answers.judged_answers({"mt": folder}, {"mt": {"orders": None, "baseline": None}}, {})["mt"]
    assert [(one.choice, one.games[0].verdict) for one in found.shown] == [
        ("none", "no verdict"),
        ("low", "2 of 10"),
        ("middle", "6 of 10"),
        ("high", "9 of 10"),
    ]


def with_tokens(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tokens: list[ShownToken], *, left_out: Sequence[int] = (7, 7)
) -> ReportInputs:
    collected = replace(everything(folder), reference=folder / "reference")
    assert collected.train is not None
    write_object(collected.train / "training.json", {"config": {"max_groups_per_row": 4}})
    shown = [ShownCompletion("g1", "a prompt", label, tuple(tokens), n) for label, n in zip((1, -1), left_out, strict=True)]
    monkeypatch.setattr(analysis, "token_shifts", lambda *args, **kwargs: shown)
    return collected


def test_tokens_have_a_colour_and_their_numbers_for_pointer_touch_and_keyboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = [ShownToken("The", -1.0, -0.4), ShownToken(" end", -0.5, -4.0), ShownToken("\n", -0.5, -0.55)]
    html, page = built(tmp_path / "out", with_tokens(tmp_path, monkeypatch, tokens, left_out=(7, 0)))
    strip = re.findall(
        r'<label class="token ?([^"]*)"><input ([^>]*)/><span data-numbers="([^"]*)">([^<]*)</span></label>', html
    )
    assert [(color, numbers, text) for color, _, numbers, text in strip] == 2 * [
        ("rise-2", "−1.00 → −0.40 nats, shift +0.60", "The"),
        ("fall-4", "−0.50 → −4.00 nats, shift −3.50", " end"),
        ("", "−0.50 → −0.55 nats, shift −0.05", "⏎\n"),
    ]
    # One group of radio buttons a completion: one stop of the Tab key, then arrows; a name with the numbers for who can't see.
    names = [re.search(r'name="([^"]*)"', attributes) for _, attributes, _, _ in strip]
    assert len({found[1] for found in names if found}) == 2
    assert ("input", "aria-label", "The: −1.00 → −0.40 nats, shift +0.60") in page.attributes
    assert "7 more tokens" in page.text and "−2.95 nats in all" in page.text
    # Of a completion that is cut nobody has summed the rest.
    assert "−2.95 nats in these 3 tokens" in page.text


def test_without_values_per_token_there_is_no_such_view(tmp_path: Path) -> None:
    _, page = built(tmp_path / "out", everything(tmp_path))
    assert "Token by token" not in page.text and "Likelihood" in page.text


@pytest.mark.parametrize(
    ("text", "most", "found"),
    [
        ("as it\n is", 9, "as it is"),
        ("each with one sentence that explains it", 26, "each with one sentence…"),
        ("1" * 30, 10, "1" * 9 + "…"),
        ("one" + "\n" * 90 + "two", 10, "one…"),
    ],
)
def test_a_gist_ends_with_a_word_and_says_that_there_is_more(text: str, most: int, found: str) -> None:
    assert gist(text, most) == found


def test_values_per_token_that_are_on_another_machine_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    collected = replace(everything(tmp_path), reference=tmp_path / "reference")
    assert collected.shifts is not None and collected.reference is not None
    for folder, file in ((collected.reference, "reference-00000"), (collected.shifts / "policy_logps", "reference-00000")):
        write_object(folder / "index.json", {"shards": [{"file": f"{file}.safetensors", "rows": [0, 1]}]})
    _, page = built(tmp_path / "out", collected)
    assert "its values are on the machine that trained" in page.text and "--refresh report" in page.text


def test_hostile_words_of_judges_questions_and_tokens_are_inert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = HOSTILE + "\"'> <svg onload=alert(3)> </details></style>"
    collected = with_tokens(tmp_path, monkeypatch, [ShownToken(hostile, -1.0, -2.0)])
    with_words = with_judge(tmp_path, hostile + "x" * 1_000_000)
    for path in (*collected.generations["crux"].values(), *with_words.generations["arena_hard"].values()):
        for file in ("items.jsonl", "completions.jsonl"):
            records = [json.loads(line) for line in (path / file).read_text().splitlines()]
            changed = {"question": hostile, "prompt": hostile, "completion": hostile + "x" * 1_000_000}
            write_lines(path / file, [{key: changed.get(key, value) for key, value in one.items()} for one in records])
    plain, _ = built(tmp_path / "plain", everything(tmp_path / "other"))
    html, page = built(tmp_path / "out", replace(collected, judges=with_words.judges, generations=with_words.generations))
    assert not {"script", "img"} & set(page.tags) and page.tags.count("svg") == plain.count("<svg")
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.tags.count("style") == 1 and "<svg onload=alert(3)>" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html)
    assert len(html) < 500_000


def test_on_a_narrow_page_every_value_has_the_name_of_its_column(tmp_path: Path) -> None:
    html, _ = built(tmp_path / "out", everything(tmp_path))
    tables = re.findall(r'<table class="cards[^"]*">(.*?)</table>', html, re.DOTALL)
    assert len(tables) == 3
    for table in tables:
        columns = re.findall(r"<th>(.*?)</th>", table)
        for row in re.findall(r"<tr>(<td.*?)</tr>", table, re.DOTALL):
            named = re.findall(r'<td data-label="([^"]*)"', row)
            assert named in (columns, columns[1:])
    # The two figures that answer come first.
    assert re.findall(r"<th>(.*?)</th>", tables[0])[:3] == ["benchmark", "Δ [95 %]", "verdict"]


def test_adapters_are_said(tmp_path: Path) -> None:
    collected = inputs(tmp_path, {}, train=trained(tmp_path / "train"))
    settings: dict[str, Any] = {"objective": "bnf", "learning_rate": 2e-5, "lr_scheduler_type": "cosine"}
    lora = {
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "lora_target_modules": ["q_proj", "v_proj"],
        "load_in_4bit": True,
    }
    collected.recipe["train"] = {**settings, **lora}
    _, page = built(tmp_path / "one", collected)
    assert "LoRA of rank 16 on q_proj, v_proj, alpha 32, dropout 0.05; the base model's weights in 4 bits" in page.text
    collected.recipe["train"] = {**settings, "lora_r": 0}
    assert "Adapters" not in built(tmp_path / "two", collected)[1].text


def test_what_the_page_reads_of_the_analysis_is_in_no_key_but_the_reports() -> None:
    assert "bnf.analysis.token_shifts" in code_digests(["tasks.stages.report"])
    for stage in ("reference", "train", "analyze", "judge", "score"):
        code = code_digests([f"tasks.stages.{stage}"])
        assert not [module for module in code if module.startswith(("bnf.analysis.token_shifts", "evaluation.report"))]


def test_the_page_opens_without_the_stages_that_it_shows(tmp_path: Path) -> None:
    collected = inputs(tmp_path, {"crux": {"base": scored(tmp_path / "crux", "+-")}})
    found = {one.anchor: one.content(collected, summarize(collected)) for one in sections.SECTIONS}
    assert {anchor for anchor, content in found.items() if content is not None} == {"results", "examples", "run"}
    assert Page(build.render(collected, summarize(collected))).open == []
