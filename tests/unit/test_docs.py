"""The documents lead somewhere: their links, the recipes that they run, and every recipe has its line."""

import re
import shlex
import string

import pytest

from flows.dag.points import make_points
from flows.recipe.config import load_recipe
from flows.recipe.sweep_file import is_sweep, load_sweep
from tasks.keys import ROOT
from tests import recipes

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
RECIPES = [path.relative_to(ROOT).as_posix() for path in recipes.RECIPES]
COMMANDS = ("run", "sweep", "plan", "doctor", "evaluate")


def _anchor(heading: str) -> str:
    """What GitHub calls a heading in links."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)


def _code(text: str) -> list[str]:
    """The lines of a document's code, fenced or indented, with continued lines joined."""
    fenced = "\n".join(re.findall(r"^```.*?\n(.*?)^```$", text, flags=re.S | re.M))
    indented = "\n".join(re.findall(r"^ {4}(.*)$", _without_code(text), flags=re.M))
    return re.sub(r"\\\n\s*", "", f"{fenced}\n{indented}").splitlines()


def _recipe_commands(text: str) -> list[list[str]]:
    """The words of each command of a document that runs one of the project's recipes, with the document's shell variables put in."""
    variables: dict[str, str] = {}
    found = []
    for line in _code(text):
        # Of a loop the first value stands for all.
        if given := re.match(r'(\w+)="([^"]*)"$', line) or re.match(r"for (\w+) in (\S+)", line):
            variables[given[1]] = string.Template(given[2]).safe_substitute(variables)
        if not re.search(r"\bbnf (?:\w+)\b.*flows/recipes/\S+\.yaml", line):
            continue
        words = shlex.split(string.Template(line[line.index("bnf ") :]).safe_substitute(variables), comments=True)
        if words[1] in COMMANDS:
            found.append(words)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_inside_the_project_leads_to_a_file_and_a_heading(document):
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", _without_code(document.read_text())):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in map(_anchor, re.findall(r"^#+ (.*)$", target.read_text(), re.M))):
            wrong.append(link)
    assert not wrong


def test_every_document_of_docs_is_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert not [path.name for path in DOCUMENTS if path.parent.name == "docs" and path.name not in readme]


def test_every_recipe_of_the_project_is_in_the_documents_table():
    table = (ROOT / "docs" / "recipes.md").read_text()
    assert not [path for path in RECIPES if f"`{path.removeprefix('flows/recipes/')}`" not in table]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_of_a_document_run_valid_recipes(document):
    for words in _recipe_commands(document.read_text()):
        [recipe] = [word for word in words if word.endswith(".yaml")]
        settings = [word for word in words if re.match(r"[a-z]\w*(\.\w+)*=", word)]
        if is_sweep(recipe):
            make_points(load_sweep(recipe, settings))
        else:
            load_recipe(recipe, settings)


@pytest.mark.parametrize("name", ["slurm-nodes.sh", "kubernetes-nodes.yaml"])
def test_a_template_that_a_document_shows_is_the_file(name):
    shown = re.findall(r"^```(?:bash|yaml)\n(.*?)^```$", (ROOT / "docs" / "scaling.md").read_text(), flags=re.S | re.M)
    assert (ROOT / "docs" / "templates" / name).read_text() in shown


def test_a_commands_settings_are_found_with_variables_continuations_and_comments():
    text = """Words.

    small="train.lora_r=16"
    smaller="$small train.nproc_per_node=1"
    for rate in 1e-7 2e-7; do
        bnf run flows/recipes/pairs.yaml $smaller \\
            train.learning_rate=$rate  # so
    done
"""
    settings = ["train.lora_r=16", "train.nproc_per_node=1", "train.learning_rate=1e-7"]
    assert _recipe_commands(text) == [["bnf", "run", "flows/recipes/pairs.yaml", *settings]]
