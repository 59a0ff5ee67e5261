"""YAML that reads as it looks: the scalars of YAML 1.2's core schema, text as keys, and every key once.

PyYAML reads YAML 1.1, where `1e-5` is text, `no` is false, `010` is 8 and `20:48` is 1248, and where the second of two equal keys wins.
Here a scalar is text unless it is a number, boolean or null of https://yaml.org/spec/1.2.2/#103-core-schema. Whole numbers that begin
with 0 are text (10 or 8?), and `2_048` and `1e3` are whole numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from yaml.constructor import ConstructorError

_TAG = "tag:yaml.org,2002:"
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
# At most 100 digits: Python's int refuses some thousands, and no setting has that many.
_WHOLE = re.compile(
    r"[-+]?(0|[1-9][0-9]{0,99})|[-+]?[1-9][0-9]{0,2}(_[0-9]{3}){1,9}|0o[0-7]{1,99}|0x[0-9a-fA-F]{1,99}"
    r"|[-+]?[1-9][0-9]{0,99}[eE]\+?0*(1[0-5]|[0-9])"
)
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_KINDS = {"null": _NULL, "bool": _BOOL, "int": _WHOLE, "float": _FLOAT, "merge": re.compile("<<")}


class _Loader(yaml.SafeLoader):
    """Values of JSON's types alone: no dates, sets or bytes."""


# Without YAML 1.1's scalars.
_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {}


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML would read as something else."""


def _scalar(kind: str, value_of: Callable[[str], object]) -> Callable[[_Loader, yaml.ScalarNode], object]:
    def construct(loader: _Loader, node: yaml.ScalarNode) -> object:
        text = loader.construct_scalar(node)
        # A tag may stand before any text: `!!int abc`.
        if not (_KINDS[kind].fullmatch(text) or (kind == "float" and _WHOLE.fullmatch(text))):
            raise ConstructorError(None, None, f"{text!r} where !!{kind} stands before it", node.start_mark)
        return value_of(text)

    return construct


def _whole(text: str) -> int:
    if text[:2] in ("0o", "0x"):
        return int(text, 0)
    digits, _, exponent = text.replace("_", "").lower().partition("e")
    return int(f"{digits}{'0' * int(exponent or 0)}")


def _float(text: str) -> float:
    if _WHOLE.fullmatch(text):
        return float(_whole(text))
    return float(text.replace(".", "", 1) if text.lower().lstrip("+-") in (".inf", ".nan") else text)


def _plain_map(loader: _Loader, node: yaml.MappingNode) -> object:
    return loader.construct_mapping(node, deep=True)


def _plain_text(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


def _plain_list(loader: _Loader, node: yaml.SequenceNode) -> object:
    return loader.construct_sequence(node, deep=True)


def _unknown(loader: _Loader, node: yaml.Node) -> None:
    raise ConstructorError(None, None, f"the tag {node.tag.replace(_TAG, '!!')}", node.start_mark)


for _kind, _pattern in _KINDS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _kind, re.compile(f"(?:{_pattern.pattern})$"), None)
_Loader.add_constructor(_TAG + "null", _scalar("null", lambda text: None))
_Loader.add_constructor(_TAG + "bool", _scalar("bool", lambda text: text.lower() == "true"))
_Loader.add_constructor(_TAG + "int", _scalar("int", _whole))
_Loader.add_constructor(_TAG + "float", _scalar("float", _float))
# `<<` as a value merges nothing.
for _kind in ("str", "merge"):
    _Loader.add_constructor(_TAG + _kind, _plain_text)
_Loader.add_constructor(_TAG + "map", _plain_map)
_Loader.add_constructor(_TAG + "seq", _plain_list)
_Loader.add_constructor(None, _unknown)


def read(text: str | bytes, name: str) -> Any:
    """The value of a YAML file; None where it is empty.

    Raises:
        ValueError: the text is not YAML or holds a second document, a key stands twice or is not text, or an alias stands inside what
            it names. The message gives the lines.
    """
    return _read(text, name, "")


def read_setting(key: str, text: str) -> Any:
    """The value of `key=text` on the command line.

    Raises:
        ValueError: as `read`, or a comment would cut the text off.
    """
    return _read(text, key, key)


def dump(value: object) -> str:
    """YAML text of a value. `read` gives the value back, and so do readers of YAML 1.1."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _read(text: str | bytes, name: str, key: str) -> object:
    # Given bytes, the reader handles a byte order mark and UTF-16.
    try:
        loader = _Loader(text)
        if not loader.check_node():
            rest = text.strip() if key and isinstance(text, str) else ""
            if rest:
                raise ValueError(f"{key} must have a value, got the comment {rest!r}; put it in quotes")
            return None
        node: yaml.Node = loader.get_node()  # type: ignore[assignment]  # check_node says that there is one
        if loader.check_node():
            line = loader.line + 1
            raise ValueError(f"{name} must hold one document, got another from line {line}; put it into a file of its own")
        if key and isinstance(text, str) and (rest := text[node.end_mark.index :].strip()).startswith("#"):
            raise ValueError(f"{key} must be a whole value, got {text!r}, of which {rest!r} is a comment; put it in quotes")
        problems = list(_problems(node, key, {}, name if not key else ""))
        if problems:
            raise ValueError("\n".join(problems))
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise ValueError(_ill_formed(f"{key} must have a YAML value" if key else f"{name} must be YAML", error)) from error
    except yaml.reader.ReaderError as error:
        raise ValueError(f"{name} must be YAML in UTF-8, got {error.reason} at byte {error.position}; save it so") from error
    except RecursionError:
        raise ValueError(f"{name} must be YAML of a few levels, got hundreds; correct it") from None


def _ill_formed(rule: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    what = ": ".join(filter(None, [error.context, (error.problem or "").removeprefix("found ")]))
    if "'\\t'" in what:
        return f"{rule}, got a tab{place}; indent with blanks"
    remedy = r"write '\' in single quotes, or twice" if "escape character" in what else "correct it"
    return f"{rule}, got {what}{place}; {remedy}"


def _problems(node: yaml.Node, path: str, seen: dict[int, bool], file: str) -> Iterator[str]:
    """What is wrong with the keys of a node and of the nodes in it. `seen` maps a node to whether it is still being looked at."""
    if id(node) in seen:
        if seen[id(node)]:
            yield f"{path} must not be part of itself, got an alias of the whole {_line(node)}; write it out"
        return
    seen[id(node)] = True
    if isinstance(node, yaml.SequenceNode):
        for index, entry in enumerate(node.value):
            yield from _problems(entry, f"{path}.{index}" if path else str(index), seen, file)
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "…"
            where = f"{path}.{name}" if path else name
            if key.tag not in (_TAG + "str", _TAG + "merge"):
                yield (
                    f"{where} must be a key of text, got the {key.tag.removeprefix(_TAG)} {name} as a key {_line(key)}"
                    f"{f' of {file}' if file else ''}; put it in quotes if it is a name"
                )
            elif name in first:
                both = f"in the lines {_number(first[name])} and {_number(key)} of {file}" if file else "twice"
                remedy = "make a list of both" if key.tag == _TAG + "merge" else "remove one"
                yield f"{where} must be given once, got it {both}; {remedy}"
            first.setdefault(name, key)
            yield from _problems(value, path if key.tag == _TAG + "merge" else where, seen, file)
    seen[id(node)] = False


def _number(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _line(node: yaml.Node) -> str:
    return f"in line {_number(node)}"
