"""What of a run's recipe differs from its file, and how its name says so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from bnf.urls import without_keys

# Keys with a short name of their own; of others it is the last part of the key. None: the value alone says it.
_SHORT: Mapping[str, str | None] = {
    "model_name_or_path": None,
    "data.path": None,
    "data.source": None,
    "train.objective": None,
    "train.learning_rate": "lr",
    "train.lora_r": "r",
    "train.lora_alpha": "alpha",
    "train.max_steps": "steps",
    "train.num_train_epochs": "epochs",
    "train.global_batch_size": "batch",
    "train.lr_scheduler_type": None,
    # Of a sweep.
    "variant": None,
}
# Sections that say where something is computed, what is measured of a policy, or what is logged: the policy is the same.
_SAME_POLICY = ("evaluation", "judge", "ray", "resources", "analyze", "train.report_to", "train.save_steps")
_MOST_PARTS, _MOST_CHARACTERS = 3, 40
# The key that holds sentences: these make no name, and a slash in them none of a file.
_SENTENCES = "system_prompt"


def difference(changed: Mapping[str, object]) -> str:
    """What follows the recipe's name in a run's, with a hyphen before it: `-dpo-lr1e-5`. Empty where the run changes nothing that trains,
    or the person named the recipe.
    """
    if "name" in changed:
        return ""
    said = [part for key, value in changed.items() if not _is_below(key, _SAME_POLICY) and (part := _part(key, value))]
    text = "".join(f"-{part}" for part in said[:_MOST_PARTS])
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS].rstrip("-.")


def parts(settings: Mapping[str, object]) -> list[str]:
    """What a name says of each setting: `dpo`, `lr1e-5`, `seed0`."""
    return [_part(key, value) for key, value in settings.items()]


def changes(changed: Mapping[str, object]) -> str:
    """The changed keys in words, for a table: `train.objective=dpo train.learning_rate=1e-5`."""
    return " ".join(
        f"{key}={_beginning(value) if key == _SENTENCES and isinstance(value, str) else _value(value)}"
        for key, value in changed.items()
        if key != "name"
    )


def _part(key: str, value: object) -> str:
    last = key.rsplit(".", 1)[-1]
    name = _SHORT.get(key, last)
    has_no_word = isinstance(value, list | dict) or value is None or key == _SENTENCES
    # A variant's name is no path, whatever it holds.
    said = str(value) if key == "variant" else _value(value)
    text = name or last if has_no_word else (name or "") + said
    # A run's name is a folder's, and a word of a shell.
    return re.sub(r"[^a-z0-9.+-]+", "-", text.lower()).strip("-.")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return re.sub(r"e([+-])0*", lambda found: "e" + found[1].strip("+"), f"{value:g}")
    if isinstance(value, str) and "/" in value:
        # A run's name is seen by others, and a URL may hold a key.
        value = without_keys(value) if "://" in value else value
        return Path(value).stem if value.endswith((".jsonl", ".json", ".parquet", ".csv")) else Path(value).name
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_value(entry)}' for key, entry in value.items())}}}"
    return "null" if value is None else str(value)


def _beginning(sentences: str) -> str:
    text = " ".join(sentences.split())
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"


def _is_below(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)
