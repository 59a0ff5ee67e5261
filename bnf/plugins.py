"""Plug-ins: a file in the folder of its kind is found by its name and held to its kind's contract. Nothing is registered.

A contract is a `typing.Protocol` whose members a plug-in's module has: constants and functions. What a plug-in may leave out has a
default in the contract: a value, or a method under `@default`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MethodType, ModuleType
from typing import Generic, TypeVar, cast

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Kind(Generic[T]):
    """A kind of plug-ins.

    Attributes:
        word: what one of them is called in messages, and the recipe's key for its name.
        package: the package in whose folder their files are. A file whose name begins with an underscore is none.
        contract: what a plug-in's module has.
        needs: which of the functions that may be left out a plug-in must have all the same, by what it says of itself.
    """

    word: str
    package: str
    contract: type[T]
    needs: Callable[[T], Sequence[str]] = lambda plug_in: ()

    @property
    def folder(self) -> Path:
        return _ROOT.joinpath(*self.package.split("."))


def default(method: F) -> F:
    """Marks a method of a contract as one that a plug-in may leave out: its body is the default."""
    method.__dict__["is_default"] = True
    return method


def names(kind: Kind[T]) -> list[str]:
    """The names of a kind's plug-ins, sorted."""
    return sorted(path.stem for path in kind.folder.glob("[!_]*.py"))


def load(kind: Kind[T], name: str) -> T:
    """The plug-in `name`. What its file leaves out has the contract's default.

    Raises:
        ValueError: there is no plug-in of that name.
        TypeError: its file breaks the contract; the message names the missing members or parameters.
    """
    # The plan of a sweep loads the same few tens of thousands of times: neither is the folder listed each time, nor the contract checked.
    is_name = isinstance(name, str) and name.isidentifier() and not name.startswith("_")
    if not is_name or not (kind.folder / f"{name}.py").is_file():
        known, place = names(kind), kind.package.replace(".", "/")
        raise ValueError(f"{kind.word} must be one of {', '.join(known)}, got {name!r}; correct it, or add {place}/{name}.py")
    module = importlib.import_module(f"{kind.package}.{name}")
    plug_in = cast(T, _PlugIn(module, kind.contract))
    wrong = list(_breaches(module, cast(Hashable, kind.contract)))
    if not wrong:
        wrong = [f"{one}() is missing" for one in kind.needs(plug_in) if not own_names(plug_in, [one])]
    if wrong:
        raise TypeError(
            f"{module.__name__} must keep the contract {kind.contract.__name__} of {kind.package}, got a file in which "
            f"{'; '.join(wrong)}; write what is missing"
        )
    return plug_in


def own_names(plug_in: object, among: Sequence[str]) -> list[str]:
    """Which of the names a loaded plug-in's own file defines. The others have the contract's defaults."""
    return [name for name in among if hasattr(cast(_PlugIn, plug_in).module, name)]


class _PlugIn:
    """A module, and behind it its contract's defaults. Functions are looked up at every call, as in the module itself."""

    def __init__(self, module: ModuleType, contract: type) -> None:
        self.module = module
        self._contract = contract
        self.__name__ = module.__name__
        self.__doc__ = module.__doc__

    def __getattr__(self, name: str) -> object:
        if hasattr(self.module, name):
            return getattr(self.module, name)
        value: object = getattr(self._contract, name)
        return MethodType(value, self) if inspect.isfunction(value) else value


@functools.cache
def _breaches(module: ModuleType, contract: type) -> tuple[str, ...]:
    """In what a module breaks a contract, in words."""
    wrong = []
    for base in reversed(contract.__mro__[:-1]):
        # A Protocol's own machinery has names with underscores.
        constants = [name for name in vars(base).get("__annotations__", {}) if not name.startswith("_")]
        wrong += [f"{name} is missing" for name in constants if not hasattr(module, name) and not hasattr(base, name)]
        methods = {name: value for name, value in vars(base).items() if inspect.isfunction(value) and not name.startswith("_")}
        for name, method in methods.items():
            found = getattr(module, name, None)
            if found is None:
                wrong += [] if "is_default" in vars(method) else [f"{name}() is missing"]
            elif not callable(found):
                wrong.append(f"{name} is no function")
            else:
                wrong += [f"{name}() doesn't take {one}" for one in _not_taken(method, found)]
    return tuple(wrong)


def _not_taken(method: Callable[..., object], found: Callable[..., object]) -> list[str]:
    """The parameters of a contract's method that a plug-in's function doesn't take under the same name."""
    given = inspect.signature(found).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in given):
        return []
    # `**options` in a contract stands for whatever the plug-in takes besides.
    parameters = inspect.signature(method).parameters.values()
    asked = [one.name for one in parameters if one.name != "self" and one.kind is not one.VAR_KEYWORD]
    return [name for name in asked if name not in {one.name for one in given}]
