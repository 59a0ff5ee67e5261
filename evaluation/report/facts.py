"""What was run, in words: the head of a report."""

from __future__ import annotations

from evaluation.records import Record
from evaluation.report.policy import policy_line
from evaluation.report.samples import in_words, sampling_of
from evaluation.report.summary import label
from evaluation.report.training_data import preferences


def facts(summary: Record) -> list[tuple[str, str]]:
    """(what, in words) of model, data, training, evaluation and judges."""
    recipe, train, data = summary["recipe"], summary["train"], summary["data"]
    found = [("Model", str(recipe["model_name_or_path"]))]
    if recipe.get("sample"):
        sample, labeler = recipe["sample"], (recipe.get("label") or {}).get("labeler")
        found.append(
            (
                "Preferences",
                f"the model's own completions: {_prompts(sample)} of {sample['source']}, {sample['samples_per_prompt']} samples each "
                f"at temperature {_temperatures(sample)}, labelled by {labeler}" + _offline(recipe),
            )
        )
    elif recipe.get("data"):
        found.append(("Preferences", preferences(recipe)))
    if data:
        pairs = f", {data['num_pairs']} pairs" if data["num_pairs"] else ", not paired"
        found.append(
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
        found.append(
            ("Objective", f"{settings['objective']}{options}" + ("" if weighting == "none" else f", labels {weighting}"))
        )
        if (reference := recipe.get("reference")) is not None:
            found.append(("Reference", _reference(reference)))
        if settings.get("lora_r"):
            found.append(("Adapters", _adapters(settings)))
        steps = f"{train['steps']} steps of about {round(train['groups_per_step'], 1):g} prompt groups, " if train else ""
        found.append(
            (
                "Training" + _of_last(summary),
                f"{steps}learning rate {_rates(settings, train)}, seed {recipe.get('seed', 0)}",
            )
        )
    if summary["benchmarks"]:
        engine = recipe["evaluation"].get("engine", "")
        names = ", ".join(label(name, entry) for name, entry in summary["benchmarks"].items())
        found.append(("Evaluation", f"{names}; {_drawn(summary)}, by {engine}"))
    for name, entry in summary["judges"].items():
        flag = ", as a demonstration" if entry["demonstration"] else ""
        found.append(("Judge", f"{entry['judge']} on {label(name, entry)}{flag}"))
    if (policy := policy_line(summary)) is not None:
        found.append(("Policy", policy))
    return found


def _drawn(summary: Record) -> str:
    """How completions were drawn; of benchmarks that differ in that the notes say it."""
    drawn = [sampling_of(entry) for entry in summary["benchmarks"].values()]
    if not any(drawn):
        return "one greedy completion per item"
    return in_words(drawn[0]) if all(one == drawn[0] for one in drawn) else "completions drawn as the notes say"


def _reference(chosen: Record) -> str:
    at = f" at temperature {chosen['temperature']:g}" if chosen["temperature"] != 1 else ""
    whose = chosen["model_name_or_path"] or "the base model"
    return f"{whose}{at}, in the objective; shifts of likelihood and KL are measured from the base model as it is"


def _adapters(settings: Record) -> str:
    targets = settings.get("lora_target_modules", "all-linear")
    dropout = f", dropout {settings['lora_dropout']:g}" if settings.get("lora_dropout") else ""
    base = "; the base model's weights in 4 bits" if settings.get("load_in_4bit") else ""
    named = targets if isinstance(targets, str) else ", ".join(targets)
    return f"LoRA of rank {settings['lora_r']} on {named}, alpha {settings.get('lora_alpha', 32)}{dropout}{base}"


def _rates(settings: Record, train: Record | None) -> str:
    """The learning rates that the optimizer was given; without a training in the report, the one that was set."""
    schedule = settings["lr_scheduler_type"]
    if train is None:
        return f"{settings['learning_rate']:g} ({schedule})"
    rates = train["learning_rates"]
    warmup = f", warm-up steps: {rates['warmup_steps']}" if rates["warmup_steps"] else ""
    first, highest, last = (f"{rates[name]:.3g}" for name in ("first", "highest", "last"))
    return f"{first} in the first step, {highest} at most, {last} in the last ({schedule}{warmup})"


def _of_last(summary: Record) -> str:
    return " of the last round" if len(summary["rounds"]) > 1 else ""


def _prompts(sample: Record) -> str:
    rounds, each = sample["rounds"], sample["prompts_per_round"] or sample["num_prompts"]
    return f"{each} prompts" if rounds == 1 else f"{rounds} rounds ({sample['reference']} reference) of {each} prompts"


def _temperatures(sample: Record) -> str:
    given = sample["temperature"]
    return ", ".join(f"{one:g}" for one in given) if isinstance(given, list) else f"{given:g}"


def _offline(recipe: Record) -> str:
    share = recipe["sample"]["offline_mix"]
    return f"; {100 * share:g} % of the prompts from {preferences(recipe)}" if share else ""
