"""`bnf score` and `judge-score`: stored completions and judgments, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from bnf.paths import person_path
from evaluation.benchmarks import BENCHMARKS
from evaluation.formats import interval
from flows.dag.parts import plugin
from flows.display import print_json, print_table
from flows.errors import RecipeError
from flows.recipe.paths import find_path
from flows.recipe.section import begin_and_end
from flows.wording import in_words, rounded


def score_file(
    benchmark: str,
    file: Path,
    file_format: Literal["native", "zeroeval"],
    *,
    lm_eval: bool,
    has_thoughts: bool | None = None,
    think_tokens: Sequence[str] | None = None,
    as_json: bool,
) -> None:
    """Score a file of completions; with `lm_eval`, also let lm-eval's own tasks score it."""
    from evaluation.report.lm_eval import cross_check_rows, is_main
    from evaluation.scoring.score import score_completions

    markers = _markers(think_tokens, has_thoughts)
    file = _file(file, "a completions.jsonl")
    result = score_completions(
        plugin(BENCHMARKS, benchmark, "BENCHMARK", ["score"]),
        file,
        format=file_format,
        lm_eval=lm_eval,
        has_thoughts=has_thoughts,
        markers=markers,
    )
    if as_json:
        print_json(result)
        return
    checked, disagreements = result.pop("cross_check", None), result.pop("disagreements", [])
    values = {key: value for key, value in result.items() if key not in ("groups", "at_k")}
    print_table("", [{"key": key, "value": _shown(key, value)} for key, value in values.items()], words=True)
    at_k = result.get("at_k", {})
    print_table(
        "samples, in percent",
        [{"figure": name, "value": rounded(one["value"], 2), "95 %": interval(one["ci"], 2)} for name, one in at_k.items()],
    )
    for name, found in result["groups"].items():
        rows = [{name: group, **{key: rounded(value, 2) for key, value in score.items()}} for group, score in found.items()]
        print_table(f"by {name}", rows)
    if checked is not None:
        print_table("lm-eval's reading of the same completions", cross_check_rows(checked), words=True)
        main = [
            {key: in_words(value, lambda leaf: rounded(leaf, 2)) for key, value in entry.items()}
            for entry in disagreements
            if is_main(entry, checked)
        ]
        print_table(f"items on which {checked['main']['task']} ({checked['main']['filter']}) differs", main, words=True)


def _markers(think_tokens: Sequence[str] | None, has_thoughts: bool | None) -> list[str] | None:
    if think_tokens is None:
        return None
    if has_thoughts is False:
        raise RecipeError(
            f"--think-tokens must be left out with --read-thoughts, which takes no thought off, got {' '.join(think_tokens)}; remove one"
        )
    try:
        return begin_and_end(list(think_tokens))
    except ValueError as error:
        raise RecipeError(f"--think-tokens {error}") from error


def _shown(key: str, value: object) -> str:
    """A value as people read it, its numbers to two places; `--json` has all of them."""
    if key == "ci" and isinstance(value, list):
        return interval(value, 2)
    return in_words(value, lambda leaf: rounded(leaf, 2))


def score_judgments(
    benchmark: str,
    files: Sequence[Path],
    file_format: Literal["native", "upstream"] | None,
    questions: str | None,
    *,
    answers: Sequence[Path] = (),
    as_json: bool,
) -> None:
    from evaluation.judging.recorded.score import BENCHMARKS as JUDGED
    from evaluation.judging.recorded.score import judge_score
    from evaluation.judging.recorded.tables import judgment_rows

    name = benchmark.replace("-", "_")
    if name not in JUDGED:
        known = " or ".join(known.replace("_", "-") for known in JUDGED)
        raise RecipeError(f"BENCHMARK must be {known}, got {benchmark!r}; `bnf score` takes benchmarks with a rule")
    files = [_file(file, "recorded judgments") for file in files]
    if questions not in (None, "hub", "sample"):
        questions = str(find_path(str(questions), "--questions"))
    answers = [_file(file, "a model's answers", "--answers") for file in answers]
    result = judge_score(name, files, file_format=file_format, questions=questions, answers=answers)
    if as_json:
        print_json(result)
        return
    for title, rows in judgment_rows(result):
        print_table(title, rows)


def _file(given: Path, what: str, key: str = "FILE") -> Path:
    file = person_path(str(given))
    if file.is_dir():
        raise RecipeError(f"{key} must be a file, got the folder {file}; give the path of {what}")
    if not file.exists():
        raise FileNotFoundError(f"{key} must exist, got {file}; give the path of {what}")
    return file
