"""The check of a judge's files: recorded answers and references must be readable before anything is generated for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from bnf.plugins import load
from evaluation.benchmarks import BENCHMARKS, Benchmark
from flows.dag.checks import Check
from flows.dag.costs import items_here
from tasks.nodes import Node


def judged_files_check(node: Node, nodes: Mapping[str, Node]) -> Check:
    """The files of a judge's node; `nodes` are the run's, by id."""
    name, benchmark = f"judge.benchmarks.{node.settings['benchmark']}", load(BENCHMARKS, node.settings["benchmark"])
    generated = nodes[next(id_ for role, id_ in node.inputs.items() if role.startswith("answers_"))]
    readers: dict[str, Callable[[Path], str]] = {
        "baseline": lambda path: _baseline_answers(path, benchmark, generated),
        "references": lambda path: f"{len(benchmark.read_references(str(path)))} references",
    }
    seen = []
    for role, read in readers.items():
        try:
            seen += [read(node.files[role])] if role in node.files else []
        except (ValueError, OSError) as error:
            return Check(name, f"{name}.{role}: {error}")
    return Check(name, None, ", ".join(seen))


def _baseline_answers(path: Path, benchmark: Benchmark, generated: Node) -> str:
    """How many answers a baseline's file has; of questions that are on this machine, it must answer every one.

    Raises:
        ValueError: it lacks an answer; the message names the file that has it, and its form.
    """
    from evaluation.judging.answers import ANSWERS_FORM, read_answers

    turns, questions = read_answers(path).turns, items_here(benchmark, generated) or []
    missing = [item["id"] for item in questions if item["id"] not in turns]
    if missing:
        upstream = (
            f"upstream's {benchmark.BASELINE_FILE}" if benchmark.BASELINE_FILE else "a model's answers to these questions"
        )
        raise ValueError(
            f"{path} must answer every question, got none to {len(missing)} of {len(questions)}, {missing[0]!r} the first; give "
            f"{upstream}: {ANSWERS_FORM}"
        )
    return f"{len(turns)} recorded answers"
