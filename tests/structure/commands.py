"""Writes docs/commands.md, every command with its arguments and options: `python -m tests.structure.commands`. A test compares the two."""

from __future__ import annotations

import re

import typer
from typer.core import TyperCommand, TyperGroup

from bnf.process import ROOT
from flows.cli import app

PATH = ROOT / "docs" / "commands.md"
_HEAD = """# Commands

What `bnf --help` and `bnf COMMAND --help` say, written by `python -m tests.structure.commands`. [pipeline.md](pipeline.md#commands)
says what `RUN` may be and what exit codes mean; [recipes.md](recipes.md) has the keys.
"""


def draw() -> str:
    """The whole page."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    commands = {name: command for name, command in group.commands.items() if not command.hidden}
    parts = [_HEAD, _list(commands), _table(group, "bnf")]
    for name, command in commands.items():
        parts += [f"## bnf {name}\n", f"{command.help}\n", f"    {_usage(command, name)}\n", _table(command, f"bnf {name}")]
    return "\n".join(part for part in parts if part)


def _list(commands: dict[str, TyperCommand]) -> str:
    rows = [f"| [`bnf {name}`](#bnf-{name}) | {_cell(command.help or '')} |" for name, command in commands.items()]
    return "\n".join(["| command | what it does |", "|---|---|", *rows]) + "\n"


def _usage(command: TyperCommand, name: str) -> str:
    context = typer.Context(command, info_name=f"bnf {name}")
    # Required ones stand in braces, the others in brackets, a second pair where they have one of their own.
    words = [re.sub(r"^(?:\{(.*)\}|\[(\[.*\])\])(?:\.\.\.)?$", r"\1\2", word) for word in command.collect_usage_pieces(context)]
    return " ".join([f"bnf {name}", *words])


def _table(command: TyperCommand, name: str) -> str:
    """Arguments and options with what they mean; `--help`, which every command has, is left out."""
    context = typer.Context(command, info_name=name)
    records = [parameter.get_help_record(context) for parameter in command.get_params(context) if parameter.name != "help"]
    # An argument's type says nothing beside its name, and that it is required stands above.
    named = [
        (re.sub(r" <(?:str|path|list\[\w+\])>$", "", what), means.replace("[required]", ""))
        for what, means in filter(None, records)
    ]
    rows = [f"| `{_cell(what)}` | {_cell(means).replace('<', '&lt;')} |" for what, means in named]
    return "\n".join(["| argument or option | |", "|---|---|", *rows]) + "\n" if rows else ""


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


def main() -> None:
    PATH.write_text(draw(), encoding="utf-8")
    print(PATH)


if __name__ == "__main__":
    main()
