"""Final answers in LaTeX: which forms are one answer, and which stay different."""

import pytest

from evaluation.answers.boxed import last_boxed
from evaluation.answers.latex import equivalent, normalized
from evaluation.answers.latex_text import cleaned


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"\dfrac{1}{2}", r"\frac12"),
        ("1/2", r"\frac{1}{2}"),
        ("0.5", r"\frac{1}{2}"),
        (".5", "0.50"),
        ("-3/4", r"-\frac{3}{4}"),
        ("3.0", "3"),
        (r"\frac 34", r"\frac{3}{4}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        ("$x = 5$", "5"),
        ("f(x)=2x", "2x"),
        (r"\boxed{7}", "7"),
        (r"\(7\)", "7"),
        ("7.", "7"),
        (r"864 \mbox{ inches}^2", "864"),
        (r"5\text{ cm}", "5"),
        (r"\text{east}", "east"),
        (r"145^\circ", "145"),
        (r"30\%", "30"),
        (r"\$1{,}000", "1000"),
        ("1,000,000", "1000000"),
        (r"11\sqrt2", r"11\sqrt{2}"),
        ("\frac{1}{2}", r"\frac{1}{2}"),  # JSON read \f as a form feed
        ("\text{east}", r"\text{east}"),  # and \t as a tab
        (r"\\frac{1}{2}", r"\frac{1}{2}"),  # escaped twice
        ("{2, 1}", r"\{1, 2\}"),
        ("{5}", r"\{5\}"),
        (r"{\frac12, 3}", r"\left\{ \frac{1}{2}, 3 \right\}"),
        ("{1,2}", "1,2"),
        ("45 deg", "45"),
        ("50 per cent", "50"),
        ("50 pct.", "50"),
        *(
            (rf"\begin{{pmatrix}} 1 & 2 {end}3 & 4\end{{pmatrix}}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}")
            for end in (
                r"\\*",
                r"\\ [4pt] ",
                r"\\[0.5em]",
                r"\newline ",
                r"\newline",
                r"\\\\",
                r"\\ \\ ",
                r"\cr",
                r"\\ \hline ",
            )
        ),
    ],
)
def test_forms_of_one_answer(answer, gold):
    assert equivalent(answer, gold) and equivalent(gold, answer)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("", ""),
        ("6", "7"),
        ("(3,4)", "(4,3)"),
        ("{1, 2}", "(1, 2)"),
        ("{1}{2}", r"\{1, 2\}"),
        (r"\begin{pmatrix}1\newline2\end{pmatrix}", r"\begin{pmatrix}12\end{pmatrix}"),
        (r"\begin{pmatrix}1\\[2]\end{pmatrix}", r"\begin{pmatrix}1\end{pmatrix}"),
        ("3,4", "34"),
        ("1,23", "123"),
        (r"\frac{1}{0}", r"\frac{2}{0}"),
        ("2x+2", "2(x+1)"),  # algebra is math-verify's part
        (r"\sqrt{2}", "1.41421356"),
        (r"\text{east}", "west"),
        ("x=y=5", "5"),
    ],
)
def test_answers_that_stay_different(answer, gold):
    assert not equivalent(answer, gold)


def test_every_answer_is_itself_and_a_long_text_is_left_alone():
    assert normalized(" " * 3000) == " " * 3000
    for text in ("1", r"\frac{a}{b}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "e^{i\\pi}"):
        assert equivalent(text, text)


def test_cleaned_keeps_spaces_and_structure():
    assert cleaned(r"$\boxed{3 \text{ cm}}$.") == r"3 \text{ cm}"


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{1} and \boxed{\frac{2}{3}}", r"\frac{2}{3}"),
        (r"\boxed 5$ and", "5"),
        (r"\fbox{4}", "4"),
        (r"\boxed{4", None),
        ("4", None),
    ],
)
def test_the_last_box(text, content):
    assert last_boxed(text) == content
