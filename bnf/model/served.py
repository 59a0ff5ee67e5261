"""What a policy was trained with and is served with alike: its chat template, the system prompt, the day that the template is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from bnf.model.templates import own_template, templated, values_in

ALIGNMENT_FILE = "alignment.json"
# The names under which templates ask for the day.
_ASK_FOR_DAY = ("strftime_now", "date_string")


def write_alignment(policy: Path, system_prompt: str | None, date: str) -> None:
    """Notes in a policy's folder what its conversations were rendered with, beside the chat template that lies there."""
    noted = {"system_prompt": system_prompt, "date": date}
    (policy / ALIGNMENT_FILE).write_text(json.dumps(noted, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def served_otherwise(
    folder: Path, template: Path | None, values: Mapping[str, object], system_prompt: str | None, date: str
) -> str | None:
    """Why a policy must not be evaluated with these: it was trained with others. None where it was not, and for any other model.

    Args:
        folder: the model's, as it was trained.
        template, values: what the recipe says of its chat template: a file of one's own, and values of variables.

    Raises:
        ValueError: the policy's note can't be read, or as `templated`.
    """
    file = folder / ALIGNMENT_FILE
    if not file.is_file():
        return None
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))
        trained_prompt, trained_date = noted["system_prompt"], noted["date"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{file} must say what the policy was trained with, got {type(error).__name__}: {error}; export it again"
        ) from error
    own = own_template(folder) or ""
    found: tuple[str, object, object] | None = None
    remedy = "set it so"
    if (now_written := templated(folder, template, values)) != own:
        before, now = values_in(own), values_in(now_written)
        other = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        found, remedy = ("chat_template", "the policy's own", "another"), "leave it out"
        if other and template is None:
            remedy = "set it so, or leave it out"
            found = (f"chat_template_kwargs.{other[0]}", before.get(other[0], "left out"), now.get(other[0]))
    elif system_prompt != trained_prompt:
        found = ("system_prompt", "left out" if trained_prompt is None else trained_prompt, system_prompt)
    elif date != trained_date and any(name in own for name in _ASK_FOR_DAY):
        found = ("date", trained_date, date)
    if found is None:
        return None
    key, trained, got = found
    return (
        f"{key} must be {_shown(trained)}, as the policy in {folder} was trained, got {_shown(got)}; {remedy}, or evaluate a copy of the "
        f"folder without {ALIGNMENT_FILE}"
    )


def _shown(value: object) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{text[:60]}…" if len(text) > 60 else text
