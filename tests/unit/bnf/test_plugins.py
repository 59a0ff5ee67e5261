"""Plug-ins are found by their files' names and held to their contracts."""

import dataclasses
from typing import Protocol

import pytest

from bnf import plugins
from bnf.plugins import Kind, default, load, names, own_names


class Greeter(Protocol):
    LANGUAGE: str
    LOUD: bool = False

    def greet(self, name: str) -> str: ...

    @default
    def greet_all(self, people: list[str]) -> list[str]:
        """Each of them by `greet`."""
        return [self.greet(one) for one in people]


WHOLE = "LANGUAGE = 'en'\ndef greet(name):\n    return f'Hello {name}'\n"


@pytest.fixture
def kind(tmp_path, monkeypatch, request):
    package = f"greeters_{abs(hash(request.node.name)) % 10**8}"
    (tmp_path / package).mkdir()
    monkeypatch.setattr(plugins, "_ROOT", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(**files):
        for name, text in files.items():
            (tmp_path / package / f"{name}.py").write_text(text)
        return Kind("greeter", package, Greeter)

    return write


def test_a_file_is_found_by_its_name(kind):
    greeters = kind(english=WHOLE, _shared="", __init__="")
    assert names(greeters) == ["english"]
    english = load(greeters, "english")
    assert english.greet("Ada") == "Hello Ada" and english.LANGUAGE == "en"


def test_what_is_left_out_has_the_contracts_default(kind):
    english = load(kind(english=WHOLE), "english")
    assert english.LOUD is False
    assert english.greet_all(["Ada", "Ben"]) == ["Hello Ada", "Hello Ben"]
    own = load(kind(own=WHOLE + "LOUD = True\ndef greet_all(people):\n    return ['all']\n"), "own")
    assert own.LOUD is True and own.greet_all(["Ada"]) == ["all"]


def test_what_is_a_files_own_is_told_from_the_contracts_default(kind):
    english = load(kind(english=WHOLE), "english")
    assert own_names(english, ["greet", "LOUD", "greet_all", "LANGUAGE", "nothing"]) == ["greet", "LANGUAGE"]


class Opener(Protocol):
    def open(self, path: str, **options: object) -> str: ...


def test_options_of_a_contract_are_each_plug_ins_own(kind):
    package = kind(deep="def open(path, *, depth=1):\n    return path * depth\n", bad="def open():\n    return ''\n").package
    openers = Kind("opener", package, Opener)
    assert load(openers, "deep").open("a", depth=2) == "aa"
    with pytest.raises(TypeError, match=r"open\(\) doesn't take path"):
        load(openers, "bad")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def greet(name):\n    return ''\n", "in which LANGUAGE is missing; write what is missing"),
        ("LANGUAGE = 'en'\n", r"in which greet\(\) is missing"),
        ("LANGUAGE = 'en'\ngreet = 1\n", "in which greet is no function"),
        ("LANGUAGE = 'en'\ndef greet(who):\n    return ''\n", r"in which greet\(\) doesn't take name"),
        (WHOLE + "def greet_all(names):\n    return names\n", r"in which greet_all\(\) doesn't take people"),
    ],
)
def test_a_file_that_breaks_the_contract_is_refused_by_what_is_missing(kind, text, message):
    greeters = kind(broken=text)
    with pytest.raises(TypeError, match=rf"broken must keep the contract Greeter of {greeters.package}, got a file {message}"):
        load(greeters, "broken")


def test_what_a_file_says_of_itself_may_ask_for_a_function_that_others_leave_out(kind):
    greeters = dataclasses.replace(
        kind(quiet=WHOLE, loud=WHOLE + "LOUD = True\n"), needs=lambda one: ["greet_all"] if one.LOUD else []
    )
    assert load(greeters, "quiet").greet_all(["Ada"]) == ["Hello Ada"]
    with pytest.raises(TypeError, match=r"loud must keep the contract Greeter .* in which greet_all\(\) is missing"):
        load(greeters, "loud")


def test_a_function_may_take_whatever_it_is_given(kind):
    greeters = kind(wide="LANGUAGE = 'en'\ndef greet(**given):\n    return given['name']\n")
    assert load(greeters, "wide").greet(name="Ada") == "Ada"


def test_an_unknown_name_is_refused_with_those_there_are(kind):
    greeters = kind(english=WHOLE, french=WHOLE)
    with pytest.raises(ValueError, match=r"greeter must be one of english, french, got 'dutch'; .* add greeters_\d+/dutch\.py"):
        load(greeters, "dutch")


def test_an_attribute_that_neither_has_is_an_error_of_attributes(kind):
    with pytest.raises(AttributeError, match="shout"):
        load(kind(english=WHOLE), "english").shout  # noqa: B018


def test_a_plug_in_that_is_loaded_again_is_neither_listed_nor_held_to_its_contract_again(kind, monkeypatch):
    """The plan of a sweep of a thousand runs loads some of them a hundred thousand times."""
    greeters = kind(english=WHOLE)
    load(greeters, "english")
    monkeypatch.setattr(plugins, "names", None)
    monkeypatch.setattr(plugins, "_not_taken", None)
    assert load(greeters, "english").greet("Ada") == "Hello Ada"
