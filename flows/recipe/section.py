"""The base of every section of a recipe, and the check that a section has the keys that its stage reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import MISSING, fields
from typing import Annotated, TypeVar, get_args, get_type_hints

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo


class Section(BaseModel):
    """A part of the recipe.

    The message of a field's validator begins with `must`, that of a section's validator with a key of the section;
    `flows.recipe.messages` puts the rest of the key before it.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        # Values keep their types: neither true nor "8" is a number. No setting is infinite.
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        # In the UI's form a field is called what a recipe calls it.
        field_title_generator=lambda name, _: name,
    )


def _plain(value: object) -> object:
    """Refuse what JSON doesn't have, such as YAML's dates: a value must mean the same in keys, manifests and templates."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"must hold texts, finite numbers, true, false, null, lists and objects, got {error}; correct it"
        ) from error
    return value


# Values of a chat template's variables.
TemplateValues = Annotated[dict[str, object], BeforeValidator(_plain)]


def begin_and_end(value: list[str] | None) -> list[str] | None:
    """Refuse what can't begin and end a thought."""
    if value is None:
        return None
    if len(value) != 2:
        raise ValueError(
            f"must hold two texts, the one that begins a thought and the one that ends it, got {len(value)}: {value}; write e.g. "
            "[<think>, </think>], or leave it out"
        )
    if not all(text.strip() for text in value) or value[0] == value[1]:
        raise ValueError(f"must hold two different texts, got {value}; write e.g. [<think>, </think>]")
    if any(text != text.strip() for text in value):
        stripped = ", ".join(text.strip() for text in value)
        raise ValueError(
            f"must hold texts without white space around them, which a prompt may end without, got {value}; write [{stripped}]"
        )
    if value[0] in value[1] or value[1] in value[0]:
        raise ValueError(
            f"must hold two texts of which none is a part of the other, got {value}; write e.g. [<think>, </think>]"
        )
    return value


# The texts that begin and end a thought.
ThinkTokens = Annotated[list[str] | None, AfterValidator(begin_and_end)]
MaxThinkingTokens = Annotated[
    int | None,
    Field(
        gt=0,
        description=(
            "engines that run here: a thought that is open after the first so many tokens of a completion is ended there, by its "
            "marker, and the model goes on; in judged answers and lm-eval's tasks too; left out: no limit"
        ),
    ),
]

# Tags of a value that may be one or several. pydantic puts them into the place of an error; the brackets tell them from keys.
ONE, SEVERAL = "(one)", "(several)"


def one_or_several(value: object) -> str:
    return SEVERAL if isinstance(value, list) else ONE


SectionType = TypeVar("SectionType", bound=Section)
# Which dataclass stands for a section in a stage.
_READ_AS: dict[object, object] = {}


def read_as(config: type, *, unread: Collection[str] = ()) -> Callable[[type[SectionType]], type[SectionType]]:
    """A decorator: the section's stage reads it as this dataclass, so both have the same keys, types and defaults.

    Descriptions and bounds stand in the section alone: what a stage reads is part of keys, and what is said of it is not. Fields of
    the dataclass that are no keys of the section come from elsewhere.

    Args:
        unread: keys of the section that the dataclass has no field for.

    Raises:
        TypeError: when the section is defined, for the first key in which they differ.
    """
    read, types = {known.name: known for known in fields(config)}, get_type_hints(config)

    def check(section: type[SectionType]) -> type[SectionType]:
        _READ_AS[section] = config
        for name, key in section.model_fields.items():
            if (name in read) == (name in unread):
                raise TypeError(
                    f"{section.__name__}.{name} must be read by {config.__name__} or named as unread; do one of both"
                )
            if name in unread:
                continue
            if _parts(key.annotation) != _parts(types[name]):
                raise TypeError(f"{config.__name__}.{name} must be of the type of the section's key, got {types[name]}")
            factory, default = read[name].default_factory, read[name].default
            if _default(key) != (factory() if factory is not MISSING else default):
                raise TypeError(f"{config.__name__}.{name} must have the default of the section's key, got {default!r}")
        return section

    return check


def _parts(annotation: object) -> object:
    """What two annotations of one key have in common: a mapping's types are those of a dict's."""
    return get_args(annotation) or _READ_AS.get(annotation, annotation)


def _default(key: FieldInfo) -> object:
    if key.is_required():
        return MISSING
    value = key.get_default(call_default_factory=True)
    config = _READ_AS.get(type(value))
    return config(**value.model_dump()) if isinstance(value, Section) and isinstance(config, type) else value


def inner_section(annotation: object) -> type[Section] | None:
    """The section that a key's values are, or hold; None where they hold none."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(inner_section, get_args(annotation))), None)
