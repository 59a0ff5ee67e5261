"""The rooms of the code: imports run one way, every room says what it is, and docs/architecture.md shows what there is."""

import ast
import re

import pytest

from bnf.process import ROOT
from tests.structure import picture
from tests.structure.rooms import PACKAGES, arrows, direct, floors, import_graph, rooms

FOLDERS = sorted(
    folder
    for package in PACKAGES
    for folder in ROOT.joinpath(package).rglob("*")
    if folder.is_dir() and (folder / "__init__.py").exists() and list(folder.glob("*.py")) != [folder / "__init__.py"]
)


def face(folder):
    return ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""


@pytest.mark.parametrize("package", PACKAGES)
def test_a_room_stands_above_all_that_it_imports(package):
    of = arrows(package)
    placed = set()
    for floor in floors(of):
        assert all(of[room] <= placed for room in floor)
        placed |= set(floor)
    assert placed == set(rooms(package))


def test_an_arrow_that_a_longer_way_says_too_is_left_out():
    of = {"a": frozenset({"b", "c"}), "b": frozenset({"c"}), "c": frozenset()}
    assert direct(of) == {"a": {"b"}, "b": {"c"}, "c": frozenset()}
    assert floors(of) == [["c"], ["b"], ["a"]]


def test_a_circle_is_refused_by_name():
    with pytest.raises(ValueError, match="rooms must import one way, got a circle among a, b"):
        floors({"a": frozenset({"b"}), "b": frozenset({"a"}), "c": frozenset()})


def test_imports_inside_functions_and_for_type_checkers_count():
    # `tasks.stages.train` imports its work inside `run`.
    assert "bnf.training.trainer" in import_graph().find_modules_directly_imported_by("tasks.stages.train")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(ROOT).as_posix())
def test_a_rooms_face_names_what_others_may_use(folder):
    said = face(folder)
    assert said, "a room's __init__.py says what the room does"
    if " = Kind(" in (folder / "__init__.py").read_text(encoding="utf-8"):  # of plug-ins the contract says what they are
        return
    public = {path.stem for path in folder.glob("[!_]*.py")}
    public |= {path.parent.name for path in folder.glob("[!_]*/__init__.py")}
    assert {name for name in public if not re.search(rf"\b{name}\b", said)} == set()


def test_architecture_shows_the_rooms_as_they_are():
    assert picture.PATH.read_text(encoding="utf-8") == picture.draw(), "run python -m tests.structure.picture"


def test_architecture_names_every_room():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = [room for package in PACKAGES for room in rooms(package) if ROOT.joinpath(*room.split(".")).is_dir()]
    assert [room for room in folders if f"`{room.replace('.', '/')}/`" not in page] == []


def test_architecture_names_no_file_that_is_not_there():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:bnf|data|evaluation|flows|tasks|tests|docs)/[\w/.]+)`", page)
    assert named and [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []
