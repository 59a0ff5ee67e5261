"""What identifies a stage's output: a canonical form of its settings, the fingerprints of its inputs, and the code that makes it.

Nothing heavy is imported here: `bnf plan` computes every key of a recipe without Prefect, torch or transformers.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROJECT_PACKAGES = frozenset({"bnf", "evaluation", "data", "tasks", "flows"})
# The part of a sha256 that names a file: 128 bits, no accidental collisions, and short enough to read.
KEY_CHARACTERS = 32
# Libraries that decide results by themselves, by the name they are imported under, with the packages whose versions count. Those of
# engines and of lm-eval are settings of their nodes; IFEval's checkers are lm-eval's, and langdetect is what imports them.
LIBRARIES = {
    "langdetect": ("lm-eval", "langdetect", "nltk"),
    "math_verify": ("math-verify", "latex2sympy2_extended", "antlr4-python3-runtime", "sympy"),
    "py3langid": ("py3langid",),
}

# Modules that show, check, find or permit something. They compute no part of a result, so an edit to them changes no key.
WITHOUT_EFFECT = frozenset(
    {
        "bnf.failures",
        "bnf.host",
        "bnf.model.device",
        "bnf.model.plain_models",
        "bnf.nearest",
        "bnf.parallel.cluster",
        "bnf.parallel.code",
        "bnf.parallel.node_folders",
        "bnf.parallel.nodes",
        "bnf.parallel.share",
        "bnf.parallel.slurm",
        "bnf.plugins",
        "bnf.process",
        "bnf.progress",
        "bnf.urls",
        "data.preparing.processes",
        "evaluation.formats",
        "evaluation.progress",
        "tasks.stages._too_long",
    }
)
# Modules that only log, sum up, refuse, or start processes, and import others. They don't count, the modules that they import do.
SHOWS_OR_REFUSES = frozenset(
    {
        "bnf.data.longest",
        "bnf.data.same_tokenizer",
        "bnf.parallel.join",
        "bnf.parallel.launch",
        "bnf.parallel.placement",
        "bnf.parallel.ray_actor",
        "bnf.parallel.ray_workers",
        "bnf.parallel.sent_errors",
        "bnf.parallel.worker_cores",
        "bnf.reference.on_ray",
        "bnf.training.checks",
        "bnf.training.fitting",
        "bnf.training.leftovers",
        "bnf.training.logger_runs",
        "bnf.training.loggers",
        "bnf.training.metrics",
        "bnf.training.remedies",
        "bnf.training.summary",
        "data.preparing.ray_pool",
        "evaluation.bundle",
        "evaluation.engines._replica_process",
        "evaluation.engines._replicas",
    }
)


def canonical(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces. It doesn't depend on hash seeds, dict order or defining modules.

    Raises:
        TypeError: a part of the value is not JSON; the message names its place.
    """
    _only_json(value, "value")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _only_json(value: object, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(
                    f"{where} must have string keys, got {key!r} of type {type(key).__name__}; turn it into JSON first"
                )
            _only_json(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _only_json(item, f"{where}[{index}]")
    elif not (value is None or isinstance(value, str | bool | int | float)):
        raise TypeError(f"{where} must be JSON, got {type(value).__name__}; turn it into JSON first")


def digest(value: object) -> str:
    """sha256 of a value's canonical form, cut to `KEY_CHARACTERS`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:KEY_CHARACTERS]


@dataclass(frozen=True)
class Ingredients:
    """What a key is made of, kept readable so that a miss can say which of them changed."""

    stage: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]  # role → content fingerprint
    code: Mapping[str, str]  # module, or module:functions, → digest of its syntax tree
    # package → version, of those in LIBRARIES that the code uses
    libraries: Mapping[str, str | None] = field(default_factory=dict)

    def key(self) -> str:
        return digest(self.as_json())

    def as_json(self) -> dict[str, Any]:
        libraries = {"libraries": dict(self.libraries)} if self.libraries else {}
        return {
            "stage": self.stage,
            "settings": dict(self.settings),
            "inputs": dict(self.inputs),
            "code": dict(self.code),
            **libraries,
        }


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The dotted keys in which two ingredient dicts differ, each with its old and new value (None where it is absent)."""
    before, after = _flatten(old), _flatten(new)
    names = sorted(before.keys() | after.keys())
    return [{"key": n, "old": before.get(n), "new": after.get(n)} for n in names if before.get(n) != after.get(n)]


def _flatten(value: object, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        flat: dict[str, Any] = {}
        for key, item in value.items():
            flat |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: value}


def code_digests(entries: Iterable[str]) -> dict[str, str]:
    """The digest of every project module that the entries reach by static imports.

    An entry is a module (`tasks.stages.train`) or functions of one (`evaluation.benchmarks.gsm8k:load,messages`). Of the latter
    only the definitions that those functions use count, and only the imports inside them: so an edit to a benchmark's scoring
    leaves its generations alone. Comments, docstrings, formatting and the modules of `SHOWS_OR_REFUSES` never count; imports inside
    functions do. A module of `WITHOUT_EFFECT` counts only where it is an entry itself: what a report shows is its result.
    """
    digests: dict[str, str] = {}
    waiting: list[str] = []
    entries = list(entries)
    passed_over = set(WITHOUT_EFFECT) - set(entries)
    for entry in entries:
        module, _, names = entry.partition(":")
        if names:
            digests[entry], imported = _slice(_source_file(module), tuple(names.split(",")))
            waiting.extend(imported)
        else:
            waiting.append(module)
    while waiting:
        module = waiting.pop()
        if module in digests or module in passed_over:
            continue
        digest_of_module, imported = _module(_source_file(module))
        waiting.extend(imported)
        if module in SHOWS_OR_REFUSES:
            passed_over.add(module)
        else:
            digests[module] = digest_of_module
    return digests


def library_versions(code: Iterable[str]) -> dict[str, str | None]:
    """The versions of the packages behind the libraries that this code imports, as far as `LIBRARIES` has them.

    Args:
        code: modules, or functions of modules, as `code_digests` names them.
    """
    used = {name for entry in code for name in _libraries(_source_file(entry.partition(":")[0]))}
    return {package: package_version(package) for name in sorted(used) for package in LIBRARIES[name]}


def package_version(*packages: str) -> str | None:
    """The version of the first of the packages that is installed."""
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


@functools.cache
def _libraries(path: Path) -> frozenset[str]:
    """Which of `LIBRARIES` a module imports, anywhere inside it."""
    found: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return frozenset(found & LIBRARIES.keys())


def _source_file(module: str) -> Path:
    stem = ROOT.joinpath(*module.split("."))
    return stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")


@functools.cache
def _tree(path: Path) -> ast.Module:
    tree = ast.parse(path.read_bytes(), filename=str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:]
        elif isinstance(node, ast.JoinedStr):
            # Python 3.12 puts empty strings into the format specifications of f-strings.
            node.values = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
    return tree


@functools.cache
def _module(path: Path) -> tuple[str, frozenset[str]]:
    tree = _tree(path)
    return _tree_digest(tree.body), _imports(tree.body, path)


@functools.cache
def _slice(path: Path, roots: tuple[str, ...]) -> tuple[str, frozenset[str]]:
    """Digest and imports of the top-level statements that the named functions use, directly or through one another."""
    definitions: dict[str, ast.stmt] = {}
    for statement in _tree(path).body:
        for name in _defined(statement):
            definitions[name] = statement
    missing = [name for name in roots if name not in definitions]
    if missing:
        raise ValueError(f"{path.name} must define {', '.join(missing)}, got {sorted(definitions)}; see CONTRIBUTING.md")
    used: dict[str, ast.stmt] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in used or name not in definitions:
            continue
        used[name] = definitions[name]
        waiting += [node.id for node in ast.walk(definitions[name]) if isinstance(node, ast.Name)]
    statements = [s for s in _tree(path).body if any(s is kept for kept in used.values())]
    return _tree_digest(statements), _imports(statements, path)


def _defined(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).split(".")[0] for alias in statement.names]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [node.id for target in targets if target is not None for node in ast.walk(target) if isinstance(node, ast.Name)]


def _tree_digest(statements: list[ast.stmt]) -> str:
    text = "\n".join(_syntax(statement) for statement in statements)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_CHARACTERS]


def _syntax(value: object) -> str:
    """A syntax tree as text, the same in every version of Python: fields that newer versions add are empty where nothing uses them."""
    if isinstance(value, ast.AST):
        fields = ((name, getattr(value, name, None)) for name in value._fields)
        return f"{type(value).__name__}({', '.join(f'{name}={_syntax(field)}' for name, field in fields if field not in (None, []))})"
    if isinstance(value, list):
        return f"[{', '.join(_syntax(item) for item in value)}]"
    return repr(value)


def _imports(statements: list[ast.stmt], path: Path) -> frozenset[str]:
    """The project's modules that these statements import, anywhere inside them."""
    package = path.parent.relative_to(ROOT).parts
    found: set[str] = set()
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else ()
                module = ".".join([*base, *([node.module] if node.module else [])])
                found.add(module)
                # `from package import module` imports the module too.
                found |= {f"{module}.{alias.name}" for alias in node.names}
    return frozenset(name for name in found if name.split(".")[0] in PROJECT_PACKAGES and _source_file(name).is_file())
