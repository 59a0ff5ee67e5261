"""The code that the documents show: commands parse, settings and YAML are those of recipes, Python compiles."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from typer.core import TyperGroup

from flows.cli import app
from flows.dag.points import make_points
from flows.recipe.config import RecipeError, make_recipe
from flows.recipe.schema import schema
from flows.recipe.sweep_file import load_sweep
from tasks.keys import ROOT
from tests.structure import commands
from tests.unit.test_docs import DOCUMENTS, _code, _without_code

CLI = typer.main.get_command(app)
assert isinstance(CLI, TyperGroup)
NAMES = "|".join(CLI.commands)
# A command may stand behind the words of a shell or of another program; `bnf` may be a path.
_SHOWN = re.compile(rf"^(?:\w+ +|.*[\s;/'])??(bnf (?:{NAMES})\b[^;&]*)")
_SETTING = re.compile(r"([a-z_]\w*(?:\.\w+)*)=(.*)", re.S)
WRITTEN = [path for path in DOCUMENTS if path != commands.PATH]


def _words(command: str) -> list[str]:
    """A command's words behind `bnf`, as somebody types it: with what stands in brackets, and the first of several choices."""
    typed = re.sub(r"\\?\|[\w-]+", "", command.split(" # ")[0]).replace("[key=value …]", "").replace(" …", "")
    if not re.search(r"=\W*\[", typed):
        typed = typed.replace("[", "").replace("]", "")
    if typed.count("'") % 2:  # it stands in quotes itself
        typed = typed[: typed.rindex("'")]
    return [word for word in shlex.split(typed, comments=True)[1:] if word != "…"]


def _parse(words: list[str]) -> None:
    """Parse as `bnf` does, without executing. Raises what the command line says of words that it doesn't take."""
    CLI.commands[words[0]].make_context(words[0], list(words[1:]))


def _parameters(name: str) -> set[str]:
    return {
        "overrides" if parameter.name == "recipe_and_overrides" else parameter.name for parameter in CLI.commands[name].params
    }


def _commands(text: str) -> list[str]:
    return [found[1] for line in _code(text) if not line.lstrip().startswith("#") and (found := _SHOWN.match(line))]


def _options(text: str) -> list[tuple[str, str]]:
    """Each command of the prose with each of its options."""
    shown = re.findall(rf"`bnf ({NAMES})\b([^`]*)`", _without_code(text))
    return [(name, option) for name, rest in shown for option in re.findall(r"(?<![\w-])--[a-z-]+", rest)]


def _has_key(part: dict, key: list[str], definitions: dict) -> bool:
    """Whether a JSON schema has the key; below a mapping whose names are free, any name."""
    if "$ref" in part:
        return _has_key(definitions[part["$ref"].rsplit("/", 1)[1]], key, definitions)
    if any(_has_key(one, key, definitions) for name in ("anyOf", "oneOf", "allOf") for one in part.get(name, ())):
        return True
    if not key:
        return True
    if part.get("type") == "array":
        return _has_key(part["items"], key[1:] if key[0].isdigit() else key, definitions)
    inner = part.get("properties", {}).get(key[0]) or part.get("additionalProperties")
    return inner is True or (isinstance(inner, dict) and _has_key(inner, key[1:], definitions))


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.S | re.M)


@pytest.mark.parametrize("document", WRITTEN, ids=lambda path: path.name)
def test_the_commands_that_a_document_shows_parse(document):
    for command in _commands(document.read_text()):
        try:
            _parse(_words(command))
        except Exception as error:  # typer's own copies of click's errors have no public name
            pytest.fail(f"`{command.strip()}`: {getattr(error, 'message', error)}")


@pytest.mark.parametrize("document", WRITTEN, ids=lambda path: path.name)
def test_the_options_that_a_document_names_are_there(document):
    unknown = []
    for name, option in _options(document.read_text()):
        there = {word for parameter in CLI.commands[name].params for word in (*parameter.opts, *parameter.secondary_opts)}
        if option not in there | {"--help"}:
            unknown.append((name, option))
    assert not unknown


@pytest.mark.parametrize("document", WRITTEN, ids=lambda path: path.name)
def test_the_settings_of_a_documents_commands_are_keys_of_recipes(document):
    whole = schema()
    typed = [_words(command) for command in _commands(document.read_text())]
    words = [word for name, *rest in typed if "overrides" in _parameters(name) for word in rest]
    settings = [found for word in words if (found := _SETTING.fullmatch(word))]
    assert not [found[0] for found in settings if not _has_key(whole, found[1].split("."), whole["$defs"])]


@pytest.mark.parametrize("document", WRITTEN, ids=lambda path: path.name)
def test_the_yaml_that_a_document_shows_is_a_recipe_or_a_part_of_one(document, tmp_path):
    for number, block in enumerate(_blocks(document.read_text(), "yaml")):
        shown = list(yaml.safe_load_all(block))
        if "apiVersion" in shown[0]:  # of Kubernetes: a template, see test_docs.py
            continue
        if "base" in shown[0]:
            path = _beside_its_base(block, shown[0]["base"], tmp_path / f"sweep{number}.yaml")
            make_points(load_sweep(str(path), []))
        else:
            make_recipe({"name": "shown", "model_name_or_path": "some/model", **shown[0]})


def _beside_its_base(block: str, base: str, path: Path) -> Path:
    """The block as a file, with its base as a path that holds there."""
    whole = ROOT / "flows" / "recipes" / "studies" / base
    path.write_text(block.replace(base, str(whole.resolve()), 1))
    return path


@pytest.mark.parametrize("document", WRITTEN, ids=lambda path: path.name)
def test_the_python_that_a_document_shows_compiles(document):
    for block in _blocks(document.read_text(), "python"):
        compile(block, document.name, "exec")


def test_the_tutorials_script_writes_the_file_that_the_tutorial_reads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "tutorial.md").read_text()
    exec(_blocks(text, "python")[0], {})
    lines = (tmp_path / "preferences.csv").read_text().splitlines()
    assert lines[:4] == text.split("head -4 preferences.csv\n\n```text\n")[1].split("\n```")[0].splitlines()
    assert f"{len(lines) - 1} rows" in text


def test_the_page_of_commands_is_that_of_the_code():
    assert commands.PATH.read_text() == commands.draw(), "run `python -m tests.structure.commands`"


def test_a_wrong_command_option_key_or_recipe_is_found():
    assert _commands("    exec .venv/bin/bnf run a.yaml  # so\n    # bnf run\n    bnf nothing\n") == ["bnf run a.yaml  # so"]
    assert _words("bnf rm RUN … [--dry-run]   # words") == ["rm", "RUN", "--dry-run"]
    assert _words("bnf evaluate RUN|MODEL 'evaluation.benchmarks=[gsm8k]'") == [
        "evaluate",
        "RUN",
        "evaluation.benchmarks=[gsm8k]",
    ]
    assert _words("bnf join' ") == ["join"]
    _parse(["run", "a.yaml", "seed=1"])
    with pytest.raises(Exception, match="No such option: --dry"):
        _parse(["run", "a.yaml", "--dry"])
    with pytest.raises(Exception, match="Missing parameter: recipe"):
        _parse(["run"])
    assert _options("`bnf gc --dry-run` `bnf gc`") == [("gc", "--dry-run")]
    whole = schema()
    known = ["train.learning_rate", "evaluation.benchmarks.gsm8k.limit", "data.path", "judge.second.model", "seed"]
    unknown = ["train.lerning_rate", "evaluation.benchmarks.gsm8k.limits", "train.learning_rate.x", "sede"]
    assert [key for key in [*known, *unknown] if _has_key(whole, key.split("."), whole["$defs"])] == known
    with pytest.raises(RecipeError):
        make_recipe({"name": "shown", "model_name_or_path": "m", "evaluation": {"benchmark": []}})
