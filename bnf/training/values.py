"""Rules that values of a recipe's settings keep, and the errors of those that don't: key, rule, value, remedy."""

import math
from collections.abc import Sequence
from difflib import get_close_matches


def check(holds: bool, key: str, rule: str, value: object, remedy: str) -> None:
    if not holds:
        raise ValueError(f"{key} must {rule}, got {value!r}; {remedy}")


def kind(declared: object) -> str:
    """A declared type's name: "float" for float, and for the text "float"."""
    return str(getattr(declared, "__name__", declared))


def plain(value: object, declared: str, key: str = "") -> object:
    """A recipe's value in the declared type, so that equal values make equal keys: 0 is 0.0 and 1e3 is 1000. In `…_steps` whole
    numbers are steps and stay whole; others are shares.
    """
    if declared.startswith("float"):
        if key.endswith("_steps"):
            return int(value) if type(value) is float and value >= 1 and value.is_integer() else value
        return float(value) if type(value) is int else value
    if declared.startswith("int") or key == "max_tokens_per_row":
        return int(value) if type(value) is float and value.is_integer() else value
    return value


def check_type(key: str, declared: str, value: object) -> None:
    """Refuses a value of another type than declared; a quoted `"false"` would count as true."""
    if value is None and declared.endswith(" | None"):
        return
    declared = declared.removesuffix(" | None")
    if declared == "str":
        check(isinstance(value, str), key, "be a name", value, "write one word")
    elif declared == "dict":
        check(isinstance(value, dict), key, "be a mapping", value, "write {name: value}, or leave it out")
    elif declared == "float":
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        check(is_number, key, "be a number", value, "write one such as 0.1 or 5e-7")
    elif declared == "int":
        check(isinstance(value, int) and not isinstance(value, bool), key, "be a whole number", value, "use no point")
    elif declared == "bool":
        check(isinstance(value, bool), key, "be true or false", value, "write it without quotes")


def check_names(key: str, value: object, remedy: str) -> None:
    names = value if isinstance(value, list) else [value]
    valid = bool(names) and all(isinstance(name, str) and name for name in names)
    check(valid, key, "be a name or a list of names", value, remedy)


def check_label_weighting(value: object) -> None:
    remedy = "use none, balanced, or a mapping such as {preferred: 1, dispreferred: 0.5}"
    if isinstance(value, dict):
        check(set(value) == {"preferred", "dispreferred"}, "label_weighting", "name preferred and dispreferred", value, remedy)
        numbers = [weight for weight in value.values() if isinstance(weight, int | float) and not isinstance(weight, bool)]
        valid = len(numbers) == 2 and all(map(math.isfinite, numbers)) and min(numbers) >= 0 and max(numbers) > 0
        check(valid, "label_weighting", "hold numbers of at least 0, one of them above", value, remedy)
    else:
        check(value in ("none", "balanced"), "label_weighting", "be none, balanced or a mapping", value, remedy)


def check_known(key: str, value: object, names: Sequence[str]) -> None:
    """Refuses a key of the `train` section that isn't among `names`, with the nearest that is."""
    if key.startswith("per_device_") or key == "gradient_accumulation_steps":
        raise ValueError(
            f"{key} must be left out, got {value!r}; set global_batch_size (prompt groups in a step) and "
            "max_tokens_per_row (memory), the split between devices and accumulation follows"
        )
    if key not in names:
        nearest = get_close_matches(key, names, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(names)}"
        raise ValueError(f"train.{key} must be a known key, got {key!r}; {hint}")
