"""The report of a run: summary.json, and report.html, one file that needs no network, no script and no other file.

Everything that comes from models or data is escaped by the template's autoescape, and what can't be seen in it is made visible.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from evaluation import formats
from evaluation.records import Record, read_records, replacing, write_json
from evaluation.report import _data_section, charts
from evaluation.report._examples import examples
from evaluation.report._judged import judge_counts, judge_notes, judge_rows
from evaluation.report.charts import Curve
from evaluation.report.dev_set import MEANING, dev_rows, dev_title
from evaluation.report.lm_eval import cross_check_rows, task_rows
from evaluation.report.rounds import round_rows
from evaluation.report.summary import MODELS, label, notes, summarize, table_rows

SUMMARY_FILE = "summary.json"
REPORT_FILE = "report.html"

_TRAINING_CHARTS: list[tuple[str, list[Curve]]] = [
    ("Loss", [Curve("loss", "training", "aligned"), Curve("eval_loss", "dev", "base")]),
    (
        "Rewards",
        [Curve("rewards/chosen", "preferred", "preferred"), Curve("rewards/rejected", "dispreferred", "dispreferred")],
    ),
    (
        "Log-probability per token",
        [Curve("logps/chosen", "preferred", "preferred"), Curve("logps/rejected", "dispreferred", "dispreferred")],
    ),
    (
        "Share of preferred above dispreferred rewards",
        [Curve("rewards/accuracies", "training", "aligned"), Curve("eval_rewards/accuracies", "dev", "base")],
    ),
    (
        "BNF's mean weight w",
        [Curve("weights/chosen", "preferred", "preferred"), Curve("weights/rejected", "dispreferred", "dispreferred")],
    ),
    ("Gradient norm", [Curve("grad_norm", "gradient norm", "base")]),
]

_LABELS = ("preferred", "dispreferred")
# Of the tokens that moved most, so many are shown.
_NUM_LARGEST = 5


def build_report(inputs: Mapping[str, Any], output_dir: Path) -> Record:
    """Writes summary.json and report.html; returns the summary. The same inputs give the same bytes.

    Args:
        inputs: As `evaluation.report.summary.summarize` takes them, and `generations` {benchmark: {model: folder}} for the examples.

    Raises:
        ValueError: where a stage's file is ill-formed.
    """
    summary = summarize(inputs)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / SUMMARY_FILE, summary, indent=1, allow_nan=False)
    with replacing(output_dir / REPORT_FILE) as partial:
        partial.write_text(render(inputs, summary), encoding="utf-8")
    return summary


def render(inputs: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """The report's HTML for a summary and the inputs it was made from."""
    import yaml
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for form in (formats.number, formats.signed, formats.interval, formats.p_value, formats.duration):
        environment.filters[form.__name__] = form
    return environment.get_template("report.html.j2").render(
        s=summary,
        rows=table_rows(summary),
        notes=notes(summary),
        label=label,
        judge_rows=judge_rows,
        judge_counts=judge_counts,
        compared={name: entry for name, entry in summary["benchmarks"].items() if "delta" in entry},
        facts=_facts(summary),
        differences=_differences(summary),
        judged=[text for name, entry in summary["judges"].items() for text in judge_notes(label(name, entry), entry)],
        groups=_groups(summary),
        checks=_checks(summary),
        lm_eval_rows=task_rows(summary),
        rounds=round_rows(summary["rounds"]),
        training=_training(inputs["train"]),
        dev_title=dev_title,
        dev_rows=dev_rows,
        dev_meaning=MEANING,
        shifts=_shifts(summary["shifts"]),
        data_tables=_data_section.tables(summary["data"]) if summary["data"] else [],
        data_figures=_data_section.figures(summary["data"]) if summary["data"] else [],
        examples=[
            (label(name, entry), examples(_in_order(inputs["scores"][name]), inputs["generations"].get(name, {})))
            for name, entry in summary["benchmarks"].items()
        ],
        recipe=yaml.safe_dump(summary["recipe"], sort_keys=False, allow_unicode=True),
    )


def _shown(value: Any) -> Any:
    """What an expression of the template puts out, before it is escaped."""
    if isinstance(value, Markup):
        return value
    return formats.NONE if value is None else formats.visible(str(value))


def _in_order(folders: Mapping[str, str]) -> dict[str, str]:
    return {model: folders[model] for model in MODELS if model in folders}


def _differences(summary: Mapping[str, Any]) -> Markup | None:
    rows = [
        (label(name, entry), entry["delta"], entry["delta_ci"], entry["verdict"])
        for name, entry in summary["benchmarks"].items()
        if entry.get("delta") is not None
    ]
    return charts.differences(rows) if rows else None


def _groups(summary: Mapping[str, Any]) -> list[tuple[str, str, list[Record]]]:
    """(benchmark, field, one row per group) of every benchmark whose items name a level, a subject or the like."""
    found = []
    for name, entry in summary["benchmarks"].items():
        models = [model for model in MODELS if model in entry]
        first = entry[models[0]].get("groups") or {}
        for field, groups in first.items():
            rows = [
                {
                    "group": group,
                    "n": result["n"],
                    "models": {model: (entry[model].get("groups") or {}).get(field, {}).get(group, {}) for model in models},
                }
                for group, result in groups.items()
            ]
            if rows:
                found.append((label(name, entry), field, rows))
    return found


def _checks(summary: Mapping[str, Any]) -> list[tuple[str, str, Record, list[dict[str, str]]]]:
    """(benchmark, model, cross-check, its rows)."""
    return [
        (label(name, entry), model, entry[model]["cross_check"], cross_check_rows(entry[model]["cross_check"]))
        for name, entry in summary["benchmarks"].items()
        for model in MODELS
        if entry.get(model, {}).get("cross_check")
    ]


def _training(folder: str | None) -> list[tuple[str, list[Curve], Markup]]:
    """(title, lines, chart) of everything that was logged."""
    if folder is None:
        return []
    steps = [record for record in read_records(Path(folder) / "metrics.jsonl") if "step" in record]
    logged = {name for record in steps for name in record}
    found = [(title, [line for line in lines if line.key in logged]) for title, lines in _TRAINING_CHARTS]
    drawn = [(title, lines, charts.curves(steps, lines, title)) for title, lines in found]
    return [(title, lines, chart) for title, lines, chart in drawn if chart is not None]


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was run, in words."""
    recipe, train, data = summary["recipe"], summary["train"], summary["data"]
    facts = [("Model", str(recipe["model_name_or_path"]))]
    if recipe.get("sample"):
        sample, labeler = recipe["sample"], (recipe.get("label") or {}).get("labeler")
        facts.append(
            (
                "Preferences",
                f"the model's own completions: {_prompts(sample)} of {sample['source']}, {sample['samples_per_prompt']} samples each "
                f"at temperature {_temperatures(sample)}, labelled by {labeler}" + _offline(recipe),
            )
        )
    elif recipe.get("data"):
        facts.append(("Preferences", _data_section.preferences(recipe)))
    if data:
        pairs = f", {data['num_pairs']} pairs" if data["num_pairs"] else ", no pairs"
        facts.append(
            (
                "Training data" + _of_last(summary),
                f"{data['num_groups']} prompt groups: {data['num_preferred']} preferred and {data['num_dispreferred']} dispreferred "
                f"completions{pairs}",
            )
        )
    if recipe.get("train"):
        settings = recipe["train"]
        options = "".join(f", {key} {value}" for key, value in settings.get("objective_options", {}).items())
        weighting = settings.get("label_weighting", "none")
        facts.append(
            ("Objective", f"{settings['objective']}{options}" + ("" if weighting == "none" else f", labels {weighting}"))
        )
        steps = f"{train['steps']} steps of about {train['groups_per_step']:g} prompt groups, " if train else ""
        facts.append(
            (
                "Training" + _of_last(summary),
                f"{steps}learning rate {_rates(settings, train)}, seed {recipe.get('seed', 0)}",
            )
        )
    if summary["benchmarks"]:
        engine = recipe["evaluation"].get("engine", "")
        names = ", ".join(label(name, entry) for name, entry in summary["benchmarks"].items())
        facts.append(("Evaluation", f"{names}; one greedy completion per item, by {engine}"))
    for name, entry in summary["judges"].items():
        flag = ", as a demonstration" if entry["demonstration"] else ""
        facts.append(("Judge", f"{entry['judge']} on {label(name, entry)}{flag}"))
    return facts


def _rates(settings: Mapping[str, Any], train: Mapping[str, Any] | None) -> str:
    """The learning rates that the optimizer was given, or, of a policy that doesn't say, the one that was set."""
    rates, schedule = (train or {}).get("learning_rates"), settings["lr_scheduler_type"]
    if rates is None:
        return f"{settings['learning_rate']:g} ({schedule})"
    warmup = f", warm-up steps: {rates['warmup_steps']}" if rates["warmup_steps"] else ""
    first, highest, last = (f"{rates[name]:.3g}" for name in ("first", "highest", "last"))
    return f"{first} in the first step, {highest} at most, {last} in the last ({schedule}{warmup})"


def _of_last(summary: Mapping[str, Any]) -> str:
    return " of the last round" if len(summary["rounds"]) > 1 else ""


def _prompts(sample: Mapping[str, Any]) -> str:
    rounds, each = sample["rounds"], sample["prompts_per_round"] or sample["num_prompts"]
    return f"{each} prompts" if rounds == 1 else f"{rounds} rounds ({sample['reference']} reference) of {each} prompts"


def _temperatures(sample: Mapping[str, Any]) -> str:
    given = sample["temperature"]
    return ", ".join(f"{one:g}" for one in given) if isinstance(given, list) else f"{given:g}"


def _offline(recipe: Mapping[str, Any]) -> str:
    share = recipe["sample"]["offline_mix"]
    return f"; {100 * share:g} % of the prompts from {_data_section.preferences(recipe)}" if share else ""


def _shifts(found: Mapping[str, Any] | None) -> Record | None:
    """The charts and tables of what training did to the likelihood of its data; None where nothing was analyzed."""
    # A data set may have one label only.
    rows = [(name, found[name]) for name in _LABELS if found[name]["completions"]] if found else []
    if not rows:
        return None
    means = [(name, row["logps_per_token"]["reference"], row["logps_per_token"]["policy"], name) for name, row in rows]
    # A token that became impossible has no finite log-probability, and nor has the mean.
    drawn = [row for row in means if None not in row]
    bins = [(row["shift_histogram"]["counts"], name) for name, row in rows]
    largest = [
        (f"{name} completions, largest {kind}s", row[f"largest_{kind}s"][:_NUM_LARGEST])
        for name, row in rows
        for kind in ("rise", "fall")
    ]
    return {
        "means": charts.likelihoods(drawn) if drawn else None,
        "distribution": charts.histogram(rows[0][1]["shift_histogram"]["edges"], bins),
        "lines": [Curve("", name, name) for name, _ in rows],
        "rows": rows,
        "largest": largest,
    }
