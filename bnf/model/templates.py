"""The chat template of a model with what a recipe says of it: a file of one's own, and values of the template's variables.

Both become part of a model folder: one of links to the model's files with a chat template of its own. Whoever reads the folder renders
alike: preparation, sampling, training, generation, a judge. A policy takes its template from there, and so whoever serves it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2.nodes import Template

TEMPLATE_FILE = "chat_template.jinja"
MORE_TEMPLATES = "additional_chat_templates"
# The files that hold chat templates and nothing else.
_HOLD_TEMPLATES = (TEMPLATE_FILE, "chat_template.json", MORE_TEMPLATES)
# The first line of a template that has values given to its variables; a line for each of them follows.
_MARK = re.compile(r"\A\{#- chat_template_kwargs (?P<values>\{.*?\}) #\}\n")
# What transformers gives a template, and the key of a recipe or of a row that says it.
_GIVEN = {
    **dict.fromkeys(("messages", "tools", "documents"), "the rows say it"),
    **dict.fromkeys(("add_generation_prompt", "continue_final_message"), "each stage says it"),
    **dict.fromkeys(
        ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), "the tokenizer says it"
    ),
    **dict.fromkeys(("strftime_now", "date_string"), "`date` says it"),
}

# How YAML 1.1 wrote switches. Recipes read these words as text.
_SWITCHES = {**dict.fromkeys(("yes", "on", "y", "true"), "true"), **dict.fromkeys(("no", "off", "n", "false"), "false")}


def own_template(folder: Path) -> str | None:
    """The template that a model folder's conversations are written with; None where it has none.

    Raises:
        ValueError: a file that may hold it can't be read.
    """
    if (file := folder / TEMPLATE_FILE).is_file():
        return file.read_text(encoding="utf-8")
    found = _in_config(folder)
    if isinstance(found, list):
        # Several with names; the one called so is for conversations without tools.
        found = next((one["template"] for one in found if one.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _in_config(folder: Path) -> object:
    """What the tokenizer's config says of chat templates: a text, or several with names; None where it says nothing."""
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("chat_template")
    except (ValueError, AttributeError) as error:
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"{file} must be a JSON object, got {said}; save the model there again") from error


def with_values(template: str, values: Mapping[str, object]) -> str:
    """The template with these values of its variables wherever a conversation doesn't say others; values given before stay.

    Raises:
        ValueError: the template doesn't read a variable, or something else gives it.
    """
    if not values:
        return template
    before = values_in(template)
    plain, merged = template.removeprefix(_head(before)) if before else template, {**before, **values}
    _check_read(plain, values)
    return _head(merged) + plain


def _head(values: Mapping[str, object]) -> str:
    """The lines before a template that give its variables these values, the first of which notes them."""
    # A name's first letter is escaped: who looks for a word in quotes in a template finds those that the template reads.
    noted = ", ".join(
        f'"\\u{ord(name[0]):04x}{name[1:]}": {json.dumps(value, ensure_ascii=False, sort_keys=True)}'
        for name, value in sorted(values.items())
    )
    # The end of a comment must not stand in it.
    noted = noted.replace("#}", "\\u0023}")
    lines = [f"{{%- set {name} = {name} | default({_literal(value)}) %}}" for name, value in sorted(values.items())]
    return "".join(f"{line}\n" for line in (f"{{#- chat_template_kwargs {{{noted}}} #}}", *lines))


def values_in(template: str) -> dict[str, object]:
    """The values that `with_values` gave the template's variables. Lines like its own that it didn't write are the template's."""
    found = _MARK.match(template)
    try:
        values = dict(json.loads(found["values"])) if found else {}
    except ValueError:
        return {}
    return values if values and template.startswith(_head(values)) else {}


def templated(folder: Path, template: Path | None, values: Mapping[str, object]) -> str:
    """The text of a model folder's chat template with a file of one's own in its place and values of its variables.

    Raises:
        ValueError: there is no template, there are several, the file is none, or as `with_values`; the message begins with the key.
    """
    if template is not None:
        return with_values(_read(template), values)
    own = own_template(folder)
    if own is None:
        raise ValueError(f"model_name_or_path must have a chat template, got {folder} without one; give one as chat_template")
    named = _in_config(folder)
    is_one_of_several = isinstance(named, list) and len(named) > 1 and not (folder / TEMPLATE_FILE).is_file()
    if values and (is_one_of_several or any((folder / MORE_TEMPLATES).glob("*.jinja"))):
        raise ValueError(
            f"chat_template_kwargs must be left out for a model of several chat templates, got {folder} with such; give the one that is "
            "meant as chat_template"
        )
    return with_values(own, values)


def write_templated(folder: Path, output: Path, text: str) -> None:
    """Makes `output`, a model folder of links to the files of `folder`, with `text` as its chat template."""
    output.mkdir(parents=True)
    for entry in sorted(folder.iterdir()):
        if entry.name not in _HOLD_TEMPLATES:
            (output / entry.name).symlink_to(entry.absolute())
    (output / TEMPLATE_FILE).write_text(text, encoding="utf-8")


def _read(file: Path) -> str:
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        text = file.read_text(encoding="utf-8")
        _compile_jinja_template(text)
    except (OSError, UnicodeDecodeError, TemplateError) as error:
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"chat_template must be a file with a Jinja template, got {file} ({said}); correct it") from error
    if not text.strip():
        raise ValueError(f"chat_template must be a file with a Jinja template, got {file}, which is empty; correct it")
    return text


def _check_read(template: str, values: Mapping[str, object]) -> None:
    from jinja2 import meta
    from transformers.utils.chat_template_utils import _compile_jinja_template

    tree = _compile_jinja_template(template).environment.parse(template)
    read = meta.find_undeclared_variables(tree) - _GIVEN.keys()
    for name in values:
        if name in _GIVEN:
            raise ValueError(
                f"chat_template_kwargs must hold none that something else says, got {name}: {_GIVEN[name]}; leave it out"
            )
        if name not in read:
            known = f"it reads {', '.join(sorted(read))}" if read else "it reads none"
            raise ValueError(
                f"chat_template_kwargs must hold variables that the chat template reads, got {name}; {known}; correct the name, or leave "
                "it out"
            )
        value = values[name]
        if isinstance(value, str) and value.lower() in _SWITCHES and not _takes_text(tree, name):
            raise ValueError(
                f"chat_template_kwargs.{name} must be true or false, as the chat template asks no more of it than that, got the text "
                f"{value!r}, which is true to it; write {_SWITCHES[value.lower()]}"
            )


def _takes_text(tree: Template, name: str) -> bool:
    """Whether a template may do more with a variable than to ask whether it is true: write it, compare it, hand it on."""
    from jinja2 import nodes

    uses = tree.find_all((nodes.Output, nodes.Compare, nodes.Concat, nodes.Call, nodes.Assign, nodes.For))
    # A loop is within none of these by what it repeats alone.
    parts = (use.iter if isinstance(use, nodes.For) else use for use in uses)
    return any(
        found.name == name and found.ctx == "load"
        for part in parts
        for found in (part, *part.find_all(nodes.Name))
        if isinstance(found, nodes.Name)
    )


def _literal(value: object) -> str:
    """A JSON value as Jinja writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(str(name))}: {_literal(entry)}" for name, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
