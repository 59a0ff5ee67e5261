"""The letter that a free reply chooses, by MMLU-Pro's rules, by GPQA's, and by the one of the project."""

import pytest

from evaluation.answers.letters import gpqa_letter, last_letter, mmlu_pro_letter

# Hand-read from upstream's expressions: r"answer is \(?([A-J])\)?", r".*[aA]nswer:\s*([A-J])", r"\b[A-J]\b(?!.*\b[A-J]\b)" with DOTALL.
PRO_REPLIES = [
    ("The answer is (C).", "C", "answer_is"),
    ("The answer is C. No, the answer is (D).", "C", "answer_is"),
    ("The answer is (K). Answer: B", "B", "answer_colon"),
    ("The answer is **D**", "D", "last_letter"),
    ("Answer: B, answer: D\nAnswer: E", "D", "answer_colon"),
    ("no answer: here\nAnswer:\n  F\nAnswer: A", "F", "answer_colon"),
    ("Answer: Answer: B", "B", "answer_colon"),
    ("Answer: X\nanswer:Cat", "C", "answer_colon"),
    ("A or B? I take B", "B", "last_letter"),
    ("(A) is wrong, so I think it is seven", "I", "last_letter"),
    ("BAD, and KLM", None, "none"),
    ("", None, "none"),
]


@pytest.mark.parametrize(("reply", "letter", "rule"), PRO_REPLIES)
def test_mmlu_pros_rules_find_the_letter(reply, letter, rule):
    found = mmlu_pro_letter(reply)
    assert (found.value, found.rule) == (letter, rule)


@pytest.mark.parametrize(
    ("reply", "letter", "rule"),
    [
        ("The correct answer is (B)", "B", "answer_is"),
        ("The answer is (X). Answer: (B)", "B", "answer_colon"),
        ("The answer is (X). The answer is (B).", None, "none"),
        ("Answer: (C)", "C", "answer_colon"),
        ("the answer: (D)", "D", "answer_colon"),
        ("My answer (A)", "A", "answer"),
        ("It is (D), I think", "D", "parentheses"),
        ("f(x) is (D)", None, "none"),
        ("The answer is B", None, "none"),
        ("", None, "none"),
    ],
)
def test_gpqas_rules_find_the_letter(reply, letter, rule):
    found = gpqa_letter(reply)
    assert (found.value, found.rule) == (letter, rule)


@pytest.mark.parametrize(
    ("reply", "letter", "rule"),
    [
        ("(A) would need x. (B) fits.\n\nThe answer is **(B)**.", "B", "stated"),
        ("see if the answer is (A): no. The answer is (C).", "C", "stated"),
        ("so f(x) = 2. The answer is **B**.", "B", "stated"),
        ("The answer is \\boxed{\\text{B}}", "B", "stated"),
        ("The answer is:\n\n$$\\boxed{D}$$", "D", "stated"),
        ("**Answer**: (D)", "D", "stated"),
        ("**Answer:** option C", "C", "stated"),
        ("The answer is **(C) 4.5 eV**", "C", "stated"),
        ("The answer is (X). The answer is B.", "B", "stated"),
        ("I think the answer is (A)? No: \\boxed{C}", "C", "boxed"),
        ("So the answer is A? No. The answer should be B.", "B", "stated"),
        ("The answer is A. Actually, the correct choice is (B).", "B", "stated"),
        ("Answer: The correct option is B", "B", "stated"),
        ('The answer is "B"', "B", "stated"),
        ("Answer：B", "B", "stated"),
        ("### Answer\n\n**B**", "B", "stated"),
        ("\\boxed{\\text{Option B}}", "B", "boxed"),
        ("**B**", "B", "bare"),
        ("B) 5 m/s", "B", "bare"),
        ("The answer is $\\mathrm{C_6H_6}$, that is (B)", "B", "parentheses"),
        ("The answer is C–H insertion: (B)", "B", "parentheses"),
        ("The answer is D₂O. Thus (A)", "A", "parentheses"),
        ("answer: A or B", None, "none"),
        ("The answer is B/C", None, "none"),
        ("A good question.", None, "none"),
        ("The answer is 4, \\boxed{A}, not \\boxed{\\mathrm{B}}, so (C)", "B", "boxed"),
        ("Not (A) but (D): the answer is 4.", "D", "parentheses"),
        ("The answer is Best", None, "none"),
        ("The answer is A's", None, "none"),
        ("The answer is (E)", None, "none"),
        ("the answer is d", None, "none"),
        ("", None, "none"),
    ],
)
def test_the_letter_that_a_reply_states_last(reply, letter, rule):
    found = last_letter(reply)
    assert (found.value, found.rule) == (letter, rule)


def test_letters_are_found_in_linear_time():
    """Upstream's own expressions take minutes for these: each letter looks for a later one."""
    assert mmlu_pro_letter("A " * 400_000).value == "A"
    assert mmlu_pro_letter("answer: k " * 100_000).rule == "none"
    for part in ("answer is ", "answer is (", "\\boxed", "answer is \\boxed", "answer: option ", "answer is " + "*" * 1000):
        assert last_letter(part * 40_000).rule == "none"
