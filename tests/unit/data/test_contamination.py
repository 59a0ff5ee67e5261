"""Contamination: known items put into data are found, with what they share; others are not."""

import json

import pytest

from bnf.data.groups import Completion, PromptGroup, write_groups
from data.contamination import ItemIndex, check_contamination
from tests.unit.evaluation.fake_engine import no_progress

QUESTION = (
    "A gardener plants twelve rows of tulips with nine bulbs each, gives away twenty bulbs, and buys five more boxes of four. "
    "How many bulbs are there in all?"
)
SHORT = "What is the capital of the smallest country?"


def _groups(folder, texts):
    groups = [PromptGroup(f"g{n}", (1,), (Completion((2,), 1),)) for n in range(len(texts))]
    lines = [{"messages": [{"role": "user", "content": prompt}], "completions": [reply]} for prompt, reply in texts]
    write_groups(folder, groups, lines)


@pytest.fixture
def items(tmp_path):
    questions = (QUESTION, SHORT, "2 + 2?", "1 2 3 4 5 6 7 8 9 10")
    rows = [{"question": question, "answer": "so #### 108"} for question in questions]
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _check(tmp_path, items, texts, dev=()):
    _groups(tmp_path / "data", texts)
    if dev:
        _groups(tmp_path / "data" / "dev", dev)
    (tmp_path / "out").mkdir()
    counts = check_contamination([tmp_path / "data"], "gsm8k", str(items), tmp_path / "out", progress=no_progress).to_json()
    assert counts == json.loads((tmp_path / "out" / "contamination.json").read_text())
    return counts, [json.loads(line) for line in (tmp_path / "out" / "contamination.jsonl").read_text().splitlines()]


def test_what_is_word_for_word_and_what_overlaps(tmp_path, items):
    words = QUESTION.split()
    texts = [
        ("Nothing in common here.", "Nothing at all."),
        (f"Solve this!\n{QUESTION.upper()}\nThink.", "108"),
        ("Hello", "Sure: " + " ".join(words[3:17]) + " and so on"),
        (" ".join(words[:12]), "twelve words in succession are no 13-gram"),
        ("Tell me: what is the capital of the smallest country", "…"),
        ("2 + 2?", "1 2 3 4 5 6 7 8 9 10"),
    ]
    counts, found = _check(tmp_path, items, texts)
    assert [(match["item"], match["group"], match["match"], match["in"]) for match in found] == [
        ("gsm8k-0", "g1", "exact", "prompt"),
        ("gsm8k-0", "g2", "ngram", "completion"),
        ("gsm8k-1", "g4", "exact", "prompt"),
    ]
    assert found[1]["words"] == "twelve rows of tulips with nine bulbs each gives away twenty bulbs and"
    assert (counts["num_items"], counts["num_items_compared"], counts["num_groups"]) == (4, 2, 3)
    assert (counts["num_exact"], counts["num_overlapping"]) == (2, 0)


def test_a_text_is_not_found_inside_longer_words(tmp_path, items):
    counts, found = _check(tmp_path, items, [("What is the capital of the smallest countryside", "x")])
    assert found == [] and counts["num_exact"] == 0


def test_the_dev_set_is_searched_too(tmp_path, items):
    counts, found = _check(tmp_path, items, [("clean", "x")], dev=[("x", QUESTION)])
    assert [match["group"] for match in found] == ["g0"] and counts["num_exact"] == 1


def test_documents_tools_and_replies_that_are_messages_are_looked_through(tmp_path, items):
    lines = QUESTION.replace(" ", "\n")
    thought = json.dumps({"role": "assistant", "content": "108", "reasoning_content": lines})
    tool = {"type": "function", "function": {"name": "add", "description": QUESTION}}
    rows = [
        {"messages": [{"role": "user", "content": "Hi"}], "completions": ["108"], "documents": [{"text": lines}]},
        {"messages": [{"role": "user", "content": "Hi"}], "completions": ["108"], "tools": [tool]},
        {"messages": [{"role": "user", "content": "Hi"}], "completions": [thought]},
        {"messages": [{"role": "user", "content": "Hi"}], "completions": ['{"role": "assistant", and ' + QUESTION]},
    ]
    write_groups(tmp_path / "data", [PromptGroup(f"g{n}", (1,), (Completion((2,), 1),)) for n in range(len(rows))], rows)
    (tmp_path / "out").mkdir()
    said = []
    check_contamination([tmp_path / "data"], "gsm8k", str(items), tmp_path / "out", progress=lambda *shown: said.append(shown))
    size = (tmp_path / "data" / "groups.jsonl").stat().st_size
    assert said[-1] == (size, size, "bytes, 4 matches")
    found = [json.loads(line) for line in (tmp_path / "out" / "contamination.jsonl").read_text().splitlines()]
    assert [(match["group"], match["match"], match["in"]) for match in found] == [
        ("g0", "exact", "prompt"),
        ("g1", "exact", "prompt"),
        ("g2", "exact", "completion"),
        ("g3", "exact", "completion"),
    ]


def test_what_only_a_checker_reads_is_no_text_of_an_item():
    """IFEval's phrases to end with stand in any data; its prompts don't."""
    phrase = "Is there anything else I can help with?"
    item = {
        "id": "ifeval-1",
        "question": f"Write an ode to the tulip in the style of a pirate. End with: {phrase}",
        "instructions": ["startend:end_checker"],
        "arguments": [{"end_phrase": phrase}],
    }
    index = ItemIndex([item])
    group = {"id": "g", "messages": [{"role": "user", "content": "Hello!"}], "completions": [{"text": phrase}]}
    assert index.num_items == 1 and not list(index.matches(group))
    (match,) = index.matches({**group, "messages": [{"role": "user", "content": item["question"]}]})
    assert (match.item, match.kind) == ("ifeval-1", "exact")
