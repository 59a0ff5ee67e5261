"""Nothing in the code runs what comes from models, data or endpoints: no pickle, no unpacking of archives, no `eval`, no foreign code."""

import ast

import pytest

from bnf.process import ROOT
from tests.structure.rooms import PACKAGES

SOURCES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
# They run code that a file names, or write wherever an archive says.
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "tarfile", "zipfile"}
CALLS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {
    ("yaml", "load"),
    ("yaml", "load_all"),
    ("yaml", "full_load"),
    ("yaml", "unsafe_load"),
    ("yaml", "Loader"),
    ("yaml", "FullLoader"),
    ("yaml", "UnsafeLoader"),
    ("torch", "load"),
    ("np", "load"),
    ("numpy", "load"),
    ("pd", "read_pickle"),
    ("pandas", "read_pickle"),
    ("os", "system"),
    ("os", "popen"),
    ("shutil", "unpack_archive"),
}
# The one place that opens model folders.
OPENING = "bnf/model_folders.py"
# It makes the sample that is part of the project, from code that stands in it.
MAKING_SAMPLES = "evaluation/benchmarks/samples/make.py"


def found(name):
    """What a module says that runs or unpacks something."""
    for node in ast.walk(SOURCES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and (node.value.id, node.attr) in ATTRIBUTES:
                yield f"{node.value.id}.{node.attr}"
            if node.attr in ("extractall", "allow_pickle"):
                yield node.attr
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in CALLS:
                yield node.func.id
            yield from (
                f"{word.arg}=True"
                for word in node.keywords
                if word.arg in ("shell", "allow_pickle", "trust_remote_code")
                and not (isinstance(word.value, ast.Constant) and word.value.value is False)
            )


def test_nothing_is_unpickled_unpacked_or_evaluated():
    assert {name: list(found(name)) for name in SOURCES if name != MAKING_SAMPLES and any(found(name))} == {}


def test_prefects_pages_get_figures_and_links_alone():
    """Markdown and pictures may hold markup, and what models wrote would stand in it."""
    made = {
        (name, node.func.id)
        for name, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("_artifact")
    }
    assert {call for _, call in made if call.startswith(("create_", "update_"))} == {
        *("create_table_artifact", "create_link_artifact", "create_progress_artifact", "update_progress_artifact")
    }
    assert {name for name, call in made if call == "create_table_artifact"} == {"flows/align.py"}, "the table of `table_rows`"


def is_safe(call):
    """Whether a call says that no code is run."""
    said = {word.arg: word.value for word in call.keywords}
    value = said.get("trust_remote_code")
    return isinstance(value, ast.Constant) and value.value is False


def test_every_model_folder_is_opened_in_one_place():
    elsewhere = []
    for name, tree in SOURCES.items():
        # Given to `open_weights`, which adds what is safe; a generation config is text alone, and has no code.
        given = {
            id(word)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open_weights"
            for word in node.args
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Attribute) and node.attr in ("from_pretrained", "pipeline")):
                continue
            is_text = isinstance(node.value, ast.Name) and node.value.id == "GenerationConfig"
            if name != OPENING and id(node) not in given and not is_text:
                elsewhere.append(f"{name}:{node.lineno}")
    assert elsewhere == [], f"open model folders with {OPENING}"


@pytest.mark.parametrize("what", ["from_config", "LLM", "opening"])
def test_every_call_that_could_run_a_models_code_says_that_it_does_not(what):
    calls = [
        (name, node)
        for name, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and what in (getattr(node.func, "attr", None), getattr(node.func, "id", None))
        and (what != "opening" or name == OPENING)
    ]
    assert calls
    assert [f"{name}:{node.lineno}" for name, node in calls if not is_safe(node)] == []
