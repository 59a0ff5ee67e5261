r"""Makes the project's own sample of each reasoning benchmark: `python -m evaluation.benchmarks.samples.make` writes them anew.

About 40 easy items each in the upstream format, for trying the pipeline out without any download. All answers are computed here.
They are no part of the benchmarks, and a score on them says nothing about one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from evaluation.benchmarks.samples.questions import QUESTIONS

SAMPLES = Path(__file__).parent
NUM_PER_TEMPLATE = 4

Row = dict[str, object]
Template = Callable[[random.Random], Row]

NAMES = ("Ada", "Ben", "Carla", "Deniz", "Elif", "Farid", "Grace", "Hugo", "Ines", "Jonas")
THINGS = ("apples", "pencils", "stickers", "marbles", "cards", "shells")

# A function, and inputs to call it with; what it returns is computed below.
FUNCTIONS: tuple[tuple[str, tuple[str, str]], ...] = (
    ("def f(x):\n    return x + 1", ("4", "-1")),
    ("def f(a, b):\n    return a * b", ("3, 5", "7, 0")),
    ("def f(text):\n    return text.upper()", ("'cat'", "'Green tea'")),
    ("def f(text):\n    return text[::-1]", ("'abc'", "'noon'")),
    ("def f(items):\n    return len(items)", ("[1, 2, 3]", "[]")),
    ("def f(items):\n    return sorted(items)", ("[3, 1, 2]", "['b', 'a']")),
    ("def f(items):\n    return items[0]", ("[8, 9]", "['x', 'y', 'z']")),
    ("def f(numbers):\n    return sum(numbers)", ("[1, 2, 3]", "[10, -10]")),
    ("def f(numbers):\n    return max(numbers) - min(numbers)", ("[2, 9, 4]", "[5]")),
    ("def f(n):\n    return n % 2 == 0", ("6", "7")),
    ("def f(words):\n    return ' '.join(words)", ("['good', 'day']", "['one']")),
    ("def f(text):\n    return text.split(',')", ("'a,b,c'", "'alone'")),
    ("def f(text, letter):\n    return text.count(letter)", ("'banana', 'a'", "'banana', 'x'")),
    ("def f(a, b):\n    if a > b:\n        return 'first'\n    return 'second'", ("3, 2", "2, 2")),
    ("def f(n):\n    total = 0\n    for i in range(n):\n        total += i\n    return total", ("4", "0")),
    ("def f(numbers):\n    return [n * n for n in numbers]", ("[1, 2, 3]", "[-2]")),
    ("def f(numbers):\n    return [n for n in numbers if n > 0]", ("[1, -1, 2]", "[-3, 0]")),
    ("def f(pairs):\n    return dict(pairs)", ("[('a', 1), ('b', 2)]", "[]")),
    ("def f(book, name):\n    return book.get(name, 'unknown')", ("{'ann': '12'}, 'ann'", "{'ann': '12'}, 'bob'")),
    ("def f(a, b):\n    a, b = b, a\n    return (a, b)", ("1, 2", "'x', 'y'")),
)


def make_samples() -> dict[str, list[Row]]:
    """The rows of each sample file by the benchmark's name; always the same."""
    return {
        "gsm8k": _from_templates(WORD_PROBLEMS, 1),
        "math_l5": _from_templates(MATH, 2),
        "math": _all_levels(_from_templates(MATH, 3)),
        "crux": _crux(),
        "mmlu_redux": _mmlu(),
        "mmlu_redux_2": _annotated(),
    }


def write_samples(folder: Path = SAMPLES) -> None:
    for name, rows in make_samples().items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def _from_templates(templates: tuple[Template, ...], seed: int) -> list[Row]:
    """Some rows of every template, mixed, no row twice."""
    rng = random.Random(seed)
    rows: list[Row] = []
    for template in templates:
        wanted = len(rows) + NUM_PER_TEMPLATE
        while len(rows) < wanted:
            row = template(rng)
            if row not in rows:
                rows.append(row)
    rng.shuffle(rows)
    return rows


def _crux() -> list[Row]:
    rows: list[Row] = []
    for code, inputs in FUNCTIONS:
        for text in inputs:
            scope: dict[str, object] = {}
            exec(f"{code}\noutput = f({text})", scope)  # the constants above, never a model's text
            rows.append({"code": code, "input": text, "output": repr(scope["output"]), "id": f"crux-sample-{len(rows)}"})
    return rows


def _mmlu() -> list[Row]:
    return [
        {
            "id": f"mmlu_redux-sample-{n}",
            "config": subject,
            "question": question,
            "choices": choices,
            "correct_answer": choices[right],
        }
        for n, (subject, question, choices, right) in enumerate(QUESTIONS)
    ]


def _annotated() -> list[Row]:
    """The same questions as annotators write them down."""
    return [
        {
            "subject": subject,
            "row": n,
            "question": question,
            "choices": choices,
            "groundtruth_answer": right,
            "error_type": "ok",
        }
        for n, (subject, question, choices, right) in enumerate(QUESTIONS)
    ]


def _all_levels(rows: list[Row]) -> list[Row]:
    return [{**row, "level": f"Level {1 + n % 5}"} for n, row in enumerate(rows)]


def _word(question: str, step: str, answer: int) -> Row:
    return {"question": question, "answer": f"{step}\n#### {answer}"}


def _got_more(rng: random.Random) -> Row:
    name, thing, a, b = rng.choice(NAMES), rng.choice(THINGS), rng.randint(2, 12), rng.randint(2, 12)
    question = f"{name} has {a} {thing}. A friend gives {name} {b} more {thing}. How many {thing} does {name} have now?"
    return _word(question, f"{a} + {b} = {a + b}", a + b)


def _gave_away(rng: random.Random) -> Row:
    name, thing, b = rng.choice(NAMES), rng.choice(THINGS), rng.randint(2, 9)
    a = b + rng.randint(1, 10)
    question = f"{name} has {a} {thing} and gives {b} of them away. How many {thing} are left?"
    return _word(question, f"{a} - {b} = {a - b}", a - b)


def _boxes(rng: random.Random) -> Row:
    thing, a, b = rng.choice(THINGS), rng.randint(2, 9), rng.randint(2, 10)
    question = f"There are {a} boxes with {b} {thing} in each of them. How many {thing} are there in total?"
    return _word(question, f"{a} * {b} = {a * b}", a * b)


def _shared(rng: random.Random) -> Row:
    thing, a, b = rng.choice(THINGS), rng.randint(2, 6), rng.randint(2, 9)
    question = f"{a} children share {a * b} {thing} equally. How many {thing} does each child get?"
    return _word(question, f"{a * b} / {a} = {b}", b)


def _price(rng: random.Random) -> Row:
    a, b, paid = rng.randint(2, 5), rng.randint(2, 6), 50
    question = f"A ticket costs ${b}. Someone buys {a} tickets and pays with ${paid}. How many dollars of change are due?"
    return _word(question, f"{a} * {b} = {a * b}\n{paid} - {a * b} = {paid - a * b}", paid - a * b)


def _walk(rng: random.Random) -> Row:
    name, a, b = rng.choice(NAMES), rng.randint(2, 8), rng.randint(2, 5)
    question = f"{name} walks {a} kilometres every day. How many kilometres does {name} walk in {b} days?"
    return _word(question, f"{a} * {b} = {a * b}", a * b)


def _twice(rng: random.Random) -> Row:
    first, second = rng.sample(NAMES, 2)
    a = rng.randint(2, 15)
    question = f"{first} is {a} years old. {second} is twice as old as {first}. How old is {second}?"
    return _word(question, f"2 * {a} = {2 * a}", 2 * a)


def _pages(rng: random.Random) -> Row:
    name, a, b, c = rng.choice(NAMES), rng.randint(3, 15), rng.randint(3, 15), rng.randint(3, 15)
    question = f"{name} reads {a} pages on Monday, {b} on Tuesday and {c} on Wednesday. How many pages is that altogether?"
    return _word(question, f"{a} + {b} + {c} = {a + b + c}", a + b + c)


def _one_box(rng: random.Random) -> Row:
    thing, a = rng.choice(THINGS), rng.randint(2, 30)
    question = f"There are {a} {thing} in a box. How many {thing} are in the box?"
    return _word(question, f"The box holds {a}.", a)


def _as_many(rng: random.Random) -> Row:
    first, second = rng.sample(NAMES, 2)
    thing, a = rng.choice(THINGS), rng.randint(2, 30)
    question = f"{first} has {a} {thing}. {second} has just as many {thing} as {first}. How many {thing} does {second} have?"
    return _word(question, f"{second} has {a} as well.", a)


def _math(subject: str, problem: str, step: str, answer: int) -> Row:
    solution = f"{step} The answer is $\\boxed{{{answer}}}$."
    return {"problem": problem, "level": "Level 5", "type": subject, "solution": solution}


def _product(rng: random.Random) -> Row:
    a, b, c = rng.randint(2, 9), rng.randint(2, 9), rng.randint(1, 9)
    return _math("Prealgebra", f"Compute ${a} \\cdot {b} + {c}$.", f"${a} \\cdot {b} = {a * b}$.", a * b + c)


def _equation(rng: random.Random) -> Row:
    x, a = rng.randint(1, 20), rng.randint(1, 20)
    return _math("Algebra", f"If $x + {a} = {x + a}$, what is $x$?", f"$x = {x + a} - {a}$.", x)


def _value(rng: random.Random) -> Row:
    a = rng.randint(2, 40)
    return _math("Algebra", f"If $x = {a}$, what is $x$?", f"$x$ is given as {a}.", a)


def _root(rng: random.Random) -> Row:
    a = rng.randint(2, 12)
    return _math("Algebra", f"What is $\\sqrt{{{a * a}}}$?", f"${a} \\cdot {a} = {a * a}$.", a)


def _remainder(rng: random.Random) -> Row:
    a, b = rng.randint(10, 40), rng.randint(3, 9)
    step = f"${a} = {a // b} \\cdot {b} + {a % b}$."
    return _math("Number Theory", f"What is the remainder when {a} is divided by {b}?", step, a % b)


def _area(rng: random.Random) -> Row:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    problem = f"A rectangle has sides of length {a} and {b}. What is its area?"
    return _math("Geometry", problem, f"The area is ${a} \\cdot {b}$.", a * b)


def _perimeter(rng: random.Random) -> Row:
    a = rng.randint(2, 25)
    return _math("Geometry", f"What is the perimeter of a square with side length {a}?", f"It is $4 \\cdot {a}$.", 4 * a)


def _outfits(rng: random.Random) -> Row:
    a, b = rng.randint(2, 6), rng.randint(2, 6)
    problem = f"Someone has {a} shirts and {b} hats. How many ways are there to wear one shirt and one hat?"
    return _math("Counting & Probability", problem, f"There are ${a} \\cdot {b}$ ways.", a * b)


def _sum_to(rng: random.Random) -> Row:
    n = rng.randint(3, 12)
    step = f"The sum is $\\frac{{{n} \\cdot {n + 1}}}{{2}}$."
    return _math("Intermediate Algebra", f"What is the sum of the whole numbers from 1 to {n}?", step, n * (n + 1) // 2)


def _absolute(rng: random.Random) -> Row:
    a = rng.randint(2, 40)
    return _math("Prealgebra", f"What is the absolute value of ${a}$?", f"${a}$ is positive.", a)


WORD_PROBLEMS: tuple[Template, ...] = (
    _got_more,
    _gave_away,
    _boxes,
    _shared,
    _price,
    _walk,
    _twice,
    _pages,
    _one_box,
    _as_many,
)
MATH: tuple[Template, ...] = (
    _product,
    _equation,
    _value,
    _root,
    _remainder,
    _area,
    _perimeter,
    _outfits,
    _sum_to,
    _absolute,
)

if __name__ == "__main__":
    write_samples()
