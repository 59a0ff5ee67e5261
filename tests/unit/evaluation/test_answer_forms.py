r"""Properties of the comparison of final answers: what is written otherwise stays right, what is another answer is wrong."""

import json
import os
import time
from pathlib import Path

import pytest

from data.labelers import verifier
from evaluation.answers.boxed import last_boxed
from evaluation.answers.latex import MAX_CHARACTERS, equivalent, normalized
from evaluation.answers.math_verify import Verifier
from evaluation.benchmarks import math
from evaluation.scoring.score import score_records
from tests.unit.evaluation.answer_forms import CHANGED, HARMLESS, changes, completions

# Gold answers of MATH, of every kind there is in its test set.
GOLDS = [
    "5", "-16", "1000", "0", ".0000672", "0.20", r"\frac{3}{4}", r"\dfrac34", r"\frac 59", r"\frac9{19}", r"-\frac{35}{9}",
    "-5/4", r"- \frac 32",
    r"1\frac{4}{5}", r"137 \frac{1}{2}", r"\pi", r"288 \pi", r"\frac{\pi}{2}", r"-\frac{\pi}{6}", r"2007 + \frac\pi 2",
    r"\frac{325}{4}\pi",
    r"\sqrt{51}", r"11\sqrt2", r"-1 + 2 \sqrt{7}", r"\frac{7 \sqrt{19}}{19}", r"\frac{\sqrt{5} - 1}{2}", r"1 \pm \sqrt{19}",
    "3 + 4i", "-1 - i",
    r"x^5 - x^4 + x^3 - x^2 + x - 1", r"5x^{26}-15x^9-35x^4+5x^2", "-13x+3", "3R^2", "p - q", "(a+5)(b+2)", r"\frac{11+9a}{20}",
    "x=5", "y = 2x + 3",
    "2x - y + 3z + 8 = 0", r"\sin^2 y", r"\cot x", "(15,-29)", r"\left( 3, \frac{\pi}{2} \right)",
    r"(4 \sqrt{2}, 4 \sqrt{2}, \sqrt{3})", "1,-2",
    r"2, 3, \text{ and } 4", r"0, \frac{1}{2}", "1 + i, 1 - i, -1 + i, -1 - i", r"\{1\pm\sqrt{5},-2\}", "(3,4]",
    r"(-\infty, 2) \cup (3, \infty)",
    r"\left(\frac{3}{5},\frac{8}{3}\right]", r"x \in [-2,7]", "12_5", "4210_{5}", r"106^\circ", r"125\%", r"\$18.90",
    r"\$32,\!348", r"11,\! 111,\! 111,\! 100",
    "58,500", r"15\mbox{ cm}^2", r"\frac{270}7\text{ degrees}", r"428\text{ square centimeters}", r"240\text{ ways.}",
    r"5.4 \text{ cents}",
    r"\text{(C)}", r"\text{B}", r"\text{east}", r"\text{Evelyn}", r"\mbox{four}", r"\text{October 30}", r"-\frac{5}{3}.",
    r"\begin{pmatrix} -10 \\ 6 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 23 \end{pmatrix}",
    r"\begin{pmatrix} 2 & 1 \\ 7 & -2 \end{pmatrix}",
    r"\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix}", r"\begin{pmatrix} \sqrt{2}/2 \\ 0 \\ -\sqrt{2}/2 \end{pmatrix}",
    r"\begin{pmatrix} \frac{4}{9} & -\frac{4}{9} \\ -\frac{2}{9} & \frac{1}{9} \end{pmatrix}",
    r"\begin{pmatrix} 0 & 1 & 2 \\ 3 & 4 & 5 \end{pmatrix}",
]  # fmt: skip

# Answers of one line are one answer, and another than those of every other line.
ONE_ANSWER = [
    ["3/2", "1 1/2", r"1\frac{1}{2}", r"1 \frac12", "1.5", r"1\tfrac12", r"1\,\frac{1}{2}", "1½", "x = 1 1/2", r"\frac{6}{4}",
    "1.50"],
    ["-3/2", "-1 1/2", r"-1\frac{1}{2}", "−1½", "-1.5", r"\frac{-3}{2}", r"\frac{3}{-2}"],
    ["11/2", "5 1/2", r"5\frac12", "5.5"],
    ["1/2", "0.5", ".5", "½", r"{1 \over 2}", r"\frac12", "50/100", r"\cfrac{1}{2}"],
    ["-1/2", r"-\frac12"],
    [r"2\frac{3}{2}"],  # no mixed number, and no product that has to be worked out
    [r"3-\frac12"], [r"x^2\frac12"], [r"x\frac{-1}{2}"], [r"x-\frac12"], ["2 3"], ["23"], ["2,3"], ["6"], [r"2\cdot 3", "2*3",
    r"2 \times 3"],
    ["45", "45°", r"45^\circ", r"45^{\circ}", r"45{}^\circ", "45 degrees", r"45\text{ degrees}", "**45°**", "45 °",
    r"\angle A = 45^\circ"],
    ["5", "**5**", "__5__", "*5*", "`5`", "**$5$**", r"\mathbf{5}", r"\textbf{5}", r"\boldsymbol{5}", r"\text{5}", "5.", "5.0",
    "05", "+5", "(5)", '"5"',
     r"\$5", "$5", r"$\$5$", r"\$5.00", "5 dollars", r"5\%", "5%", "5 percent", r"5\text{ percent}", "5 cm", "5cm", "5 cm^2",
     "5 cm²", r"5\,\text{cm}",
     r"5~\mathrm{cm}^{2}", "$5$ cm", "5 km/h", r"5\text{ m}/\text{s}", "5 miles per hour", r"5\text{ m}", "5 square units",
     "y=5", "a_1 = 5", "AB = 5",
     "x = **5**", "**x = 5**", r"\boxed{5}", r"$x=\boxed{5}$.", r"\displaystyle 5", "5}", "５", r"\theta=5"],
    ["-5"], [r"5\text{ million}", "5 million"], ["5i"], ["5m"], ["5t"], ["5!"], ["5:00 PM", r"5:00\text{ PM}"], ["5:00 AM"],
    ["1000", "1,000", "1{,}000", r"1\,000", r"1,\!000", "1 000", "$1,000", r"x = 1,000", "1000.0", "1e3", r"10^3",
    r"1,000\text{ cm}"],
    ["1,23"], ["123"], ["1, 234"], ["1234"],
    [r"\frac{21}{312500}", ".0000672", r"6.72\times10^{-5}", "6.72e-5", "6.72×10⁻⁵", r"6.72 \cdot 10^{-5}", "6.72e-05"],
    [".000067"], [".0000673"],
    [r"\frac13", r"0.\overline{3}"], ["0.3"], ["0.333333"],
    [r"\frac{\pi}{2}", r"\pi/2", "pi/2", "π/2"], [r"\frac{3\pi}{4}", "3π/4", "3*pi/4"], [r"-\frac{\pi}{6}", r"-\pi/6",
    r"\frac{-\pi}{6}"],
    [r"2\sqrt{3}", "2√3", "2*sqrt(3)", r"2 \cdot \sqrt3"], [r"\sqrt{12}"], [r"\sqrt12"], [r"\sqrt[3]{2}"], [r"\sqrt{2}"], ["2"],
    [r"\frac{1+\sqrt{5}}{2}", "(1+sqrt(5))/2", r"(1+\sqrt5)/2"], [r"\frac{1}{2}x", "0.5x"], [r"\frac{1}{2x}"], ["1/2x"],
    ["x^2+1", "x^{2}+1", "x²+1", "x**2+1", "x^(2)+1"], ["x2+1"], ["x^{10}", "x^10", "x¹⁰"], ["2x+3", "2*x + 3", "y=2x+3"],
    ["2(x+1)"], ["2x+1"],
    ["12_5", "12_{5}", "12₅"], ["12_6"], ["12"], ["125"], ["7"],
    ["(1,2)", r"\left( 1, 2 \right)", r"\big(1,2\big)", "$(1, 2)$"], ["(2,1)"], ["[1,2]"], ["(1,2]"], [r"\{1,2\}", r"\{2, 1\}",
    r"\lbrace 1,2\rbrace"],
    ["1,2", "1, 2", "1 and 2", r"1\text{ or }2", "x=1, x=2", "x = 1 or x = 2"], ["2,1"], ["x=1,y=2"],
    [r"(-\infty,2)\cup(3,\infty)", "(-∞, 2) ∪ (3, ∞)", "(-inf,2) U (3,inf)", r"\left(-\infty,2\right) \cup \left(3,\infty\right)"],
    [r"(-\infty,2)\cap(3,\infty)"], ["[-2,7]", r"x \in [-2,7]", "x∈[-2,7]"],
    [r"1\pm\sqrt{19}", "1±√19"], [r"1+\sqrt{19}"], ["3+2i", r"3 + 2\mathrm{i}"], ["3+2"],
    ["C", "(C)", r"\text{(C)}", r"\textbf{(C)}", "C)"], ["c"], ["B"], ["east", "East", r"\text{east}", "**East**"], ["seat"],
    ["no solution", r"\text{No solution}"], [r"\text{October 30}", "October 30"], [r"\text{October 31}"],
    [r"\begin{pmatrix} 1 \\ 23 \end{pmatrix}", r"\begin{pmatrix}1\\23\end{pmatrix}", r"\begin{bmatrix} 1\\ 23\\ \end{bmatrix}",
     r"\left(\begin{array}{c}1\\[2pt]23\end{array}\right)", r"\left[\begin{smallmatrix}1\\23\end{smallmatrix}\right]",
     r"\begin{pmatrix}1\cr23\end{pmatrix}",
     r"\begin{pmatrix} 1 \ 23 \end{pmatrix}", r"\begin{pmatrix}1\23\end{pmatrix}", r"\\begin{pmatrix} 1 \\\\ 23 \\end{pmatrix}",
     r"\\begin{pmatrix} 1 \\ 23 \\end{pmatrix}", "\begin{pmatrix} 1 \\\\ 23 \\end{pmatrix}"],
    [r"\begin{pmatrix} 12 \\ 3 \end{pmatrix}"], [r"\begin{pmatrix} 123 \end{pmatrix}"], [r"\begin{pmatrix} 1 & 23 \end{pmatrix}"],
    [r"\begin{pmatrix} 23 \\ 1 \end{pmatrix}"], ["(1,23)"], [r"\begin{pmatrix} 1 \\ -2 \end{pmatrix}",
    r"\begin{pmatrix}1\-2\end{pmatrix}"],
    [r"\begin{pmatrix} 1-2 \end{pmatrix}"], [r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}",
    r"\left|\begin{array}{cc}1&2\\3&4\end{array}\right|"],
    [r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"], [r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}"],
    [r"x \le 5", "x<=5", r"x\leq 5", "x ≤ 5"], ["x<5"], [r"\sin x", "sin(x)", r"\sin{x}"], [r"\cos x"], [r"\emptyset", "∅",
    r"\varnothing"],
]  # fmt: skip


def _right(answer: str, gold: str) -> list[bool]:
    """The form metric's verdict on the answer in each kind of reply."""
    return [math.score({"answer": gold}, text, "stop").outcome == "correct" for text in completions(answer)]


@pytest.mark.parametrize("gold", GOLDS)
def test_an_answer_written_otherwise_is_right_and_another_answer_is_wrong(gold):
    assert all(_right(gold, gold))
    wrong = {name: text for name, text in changes(HARMLESS, gold).items() if not all(_right(text, gold))}
    right = {name: text for name, text in changes(CHANGED, gold).items() if any(_right(text, gold))}
    assert not wrong and not right


def test_every_rewriting_is_felt():
    for rewritings in (HARMLESS, CHANGED):
        assert set().union(*(changes(rewritings, gold) for gold in GOLDS)) == rewritings.keys() - {"as it is"}


@pytest.mark.parametrize("line", range(len(ONE_ANSWER)), ids=lambda n: ONE_ANSWER[n][0])
def test_answers_of_a_line_are_one_and_no_others(line):
    first = ONE_ANSWER[line][0]
    assert not [text for text in ONE_ANSWER[line] if not (equivalent(text, first) and equivalent(first, text))]
    elsewhere = [text for number, texts in enumerate(ONE_ANSWER) if number != line for text in texts]
    assert not [text for text in elsewhere if equivalent(text, first)]


def test_a_text_with_commas_that_may_part_thousands_has_both_readings():
    assert equivalent("2,100", "2100") and equivalent("2,100", "2, 100") and not equivalent("2, 100", "2100")
    assert not equivalent("1,000", "1, 0") and not equivalent("(1,000)", "(1,0)") and not equivalent("(1,000)", "1000")


def test_the_second_metric_sees_what_the_first_does_and_algebra_besides():
    with Verifier() as verifier_:
        for gold in GOLDS:
            assert verifier_.equal(gold, gold), gold
        for first, *others in ONE_ANSWER:
            assert all(verifier_.equal(first, text) for text in others), first
        for gold, answer in _ALGEBRA:
            assert verifier_.equal(gold, answer), answer
        for gold, answer in _NO_ALGEBRA:
            assert not verifier_.equal(gold, answer), answer


_ALGEBRA = [
    ("2x+2", "2(x+1)"), ("1,-2", "-2,1"), (r"1\pm\sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"), (r"\frac{\sqrt{2}}{2}",
    r"\frac{1}{\sqrt{2}}"),
    ("20\\%", "0.2"), ("0.2", "20%"), (r"\sqrt{12}", r"2\sqrt3"), (r"\begin{pmatrix} \frac{\sqrt2}{2} \\ 1 \end{pmatrix}",
    r"\begin{bmatrix}1/\sqrt2\\1\end{bmatrix}"),
]  # fmt: skip
# What the library by itself calls equal: units that are variables, numerals of other bases, digits side by side, small decimals, letters.
_NO_ALGEBRA = [
    ("2", "2t"), ("5", "5m"), ("12_5", "12_6"), ("12_5", "12"), ("5", "2 3"), (".0000672", ".000067"), (r"\frac13", "0.333333"),
    ("R", "r"),
    (r"\text{(A)}", "a"), (r"\text{east}", "seat"), ("(1,2)", r"\{1,2\}"), ("1234", "1, 234"), ("3+2", r"3+2\mathrm{i}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"), ("0.2", "2%"),
]  # fmt: skip


def test_replies_with_matrices_mixed_numbers_and_emphasis_are_scored_and_labelled_alike(tmp_path):
    column = r"\begin{{pmatrix}} {} \\ {} \end{{pmatrix}}".format
    cases = [
        (column(1, 23), column(12, 3), False),
        (column(-10, 6), r"\begin{pmatrix}-10\\6\end{pmatrix}", True),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", True),
        (r"\frac{11}{2}", "5 1/2", True),
        (r"\frac{11}{2}", "1 1/2", False),
        (r"\frac{3}{2}", "1 1/2", True),
        (r"45^\circ", "45°", True),
        ("5", "**5**", True),
    ]
    items = [{"id": str(n), "answer": gold} for n, (gold, _, _) in enumerate(cases)]
    texts = [json.dumps({"reasoning": "r", "answer": answer}) for _, answer, _ in cases]
    replies = [{"id": item["id"], "completion": text, "finish_reason": "stop"} for item, text in zip(items, texts, strict=True)]
    records = score_records("math", items, [{**reply, "num_completion_tokens": 9} for reply in replies])
    expected = [right for _, _, right in cases]
    assert [record["outcome"] == "correct" for record in records] == expected
    assert [record["metrics"]["math_verify"] for record in records] == expected
    samples, labelled = tmp_path / "samples.jsonl", tmp_path / "labelled.jsonl"
    lines = [
        {"item": item, "completions": [{"text": text, "finish_reason": "stop"}]}
        for item, text in zip(items, texts, strict=True)
    ]
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    verifier.label(samples, labelled, benchmark="math", progress=lambda *_: None)
    rewards = [json.loads(line)["completions"][0]["reward"] for line in labelled.read_text().splitlines()]
    assert rewards == [float(right) for right in expected]


def test_an_unquoted_value_is_read_without_its_objects_brace():
    assert math.score({"answer": "42"}, r'{"reasoning": "\( x \)", "answer": 42}', "stop").outcome == "correct"


def test_the_reader_is_part_of_the_scores_key_and_of_the_labels_and_not_of_the_generations():
    from tasks.keys import code_digests

    reader = {f"evaluation.answers.latex{part}" for part in ("", "_form", "_terms", "_text")}
    for entries in (["evaluation.benchmarks.math:score"], ["evaluation.benchmarks.math:second_metrics"]):
        assert reader <= code_digests(entries).keys()
    assert not reader & code_digests(["evaluation.benchmarks.math:load,messages", "tasks.stages.generate"]).keys()


@pytest.mark.parametrize(
    "text",
    [
        "{" * 2000, "(" * 2000, r"\frac" * 400, r"\sqrt{" * 300, r"\begin{pmatrix}" * 130, "1 " * 1000, "1,000" * 400,
        "1/2" * 600, "." * 2000,
        "$" * 2000, "**" * 1000, "⑳" * 2000, "1e999" * 400, "x=" * 1000, "x=1," * 500, r"\text{ cm}" * 200,
        "5" + r"\,/" * 600 + "x",
        "5" + " " * 1900 + "x", r"\frac{1e300}" * 150, "." + "0" * 1990 + "1", "√" * 2000, "-" * 2000,
        r"\{" * 499 + "1" + r"\}" * 499, "_{" * 900,
        "}" * 2000, "\\" * 2000, "ﷺ" * 1000, "፩፩" * 900, "½" * 1999, r"\overline{3}." * 150, "\ud800",
        r"\begin{pmatrix}\end{" * 90, r"0.\overline{0}", "1/0",
    ],
    ids=range(34),
)  # fmt: skip
def test_hostile_answers_have_some_form_in_bounded_time(text):
    started = time.monotonic()
    assert not equivalent(text, r"\frac{7}{11}")
    assert normalized(text) == normalized(text)
    assert time.monotonic() - started < 5
    assert len(text) <= MAX_CHARACTERS


# With all answers of MATH-500, and of 700 problems of MATH's training split.

DATA = Path(os.environ.get("BNF_TEST_DATA", "/")) / "math"
needs_data = pytest.mark.skipif("BNF_TEST_DATA" not in os.environ, reason="BNF_TEST_DATA names no folder of upstream data")


def _all_golds() -> list[str]:
    import pyarrow

    with pyarrow.ipc.open_stream(str(DATA / "math500_answers.oat.arrow")) as stream:
        golds = set(stream.read_all().column("answer").to_pylist())
    rows = [json.loads(line) for line in (DATA / "MATH_test.math500_subset.jsonl").read_text().splitlines()]
    rows += [json.loads(line) for line in (DATA / "MATH_train.first100_per_subject.jsonl").read_text().splitlines()]
    return sorted(golds | {last_boxed(row["answer"]) or row["answer"] for row in rows})


@pytest.mark.integration
@needs_data
def test_every_answer_of_math_stays_right_when_it_is_written_otherwise_and_is_wrong_when_changed():
    wrong, right, count = [], [], 0
    for gold in _all_golds():
        for text in [gold, *changes(HARMLESS, gold).values()]:
            wrong += [] if equivalent(text, gold) else [(text, gold)]
            count += 1
        for text in changes(CHANGED, gold).values():
            right += [(text, gold)] if equivalent(text, gold) else []
            count += 1
    assert not wrong and not right and count > 15_000


@pytest.mark.integration
@needs_data
@pytest.mark.parametrize("every", [32, pytest.param(8, marks=pytest.mark.nightly)])
def test_the_second_metric_agrees_on_the_answers_of_math_that_are_no_integers(every):
    golds = [gold for gold in _all_golds() if not gold.lstrip("-").isdigit()][::every]
    with Verifier() as verifier_:
        for gold in golds:
            assert all(verifier_.equal(gold, text) for text in changes(HARMLESS, gold).values()), gold
            right = {name: text for name, text in changes(CHANGED, gold).items() if verifier_.equal(gold, text)}
            assert not right
