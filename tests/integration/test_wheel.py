"""The wheel is the library alone: it has its types, works beside the packages that it names and no others, and installs on every Python."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.keys import ROOT
from tests.unit.conftest import DEMONSTRATION_MODEL
from tests.unit.test_readme import block

pytestmark = pytest.mark.integration
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
UV = Path(sys.executable).with_name("uv")
EXTRAS = {"peft", "tensorboard", "ray", "optimi", "bitsandbytes", "torchao"}
# Every module of the package; of what is missing only the packages that the wheel names may be the cause.
IMPORT_ALL = """
import importlib, json, pkgutil, bnf
found = {"imported": 0, "missing": []}
for module in pkgutil.walk_packages(bnf.__path__, "bnf."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
        found["imported"] += 1
    except ModuleNotFoundError as error:
        found["missing"].append(error.name.partition(".")[0])
print(json.dumps(found))
"""


def run(*command, cwd=None):
    """Standard output. Nothing of this environment is seen but what the interpreter finds by itself."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A clean environment with the wheel and the packages that it needs, linked from this one."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    (site,) = folder.glob("lib/python*/site-packages")
    here = Path(importlib.metadata.distribution("torch").locate_file(""))
    for name in needed(PROJECT["dependencies"]):
        for top in {file.parts[0] for file in importlib.metadata.distribution(name).files} - {"..", "bin", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(here / top)
    return python


def needed(requirements):
    """The packages that the requirements name, and those that these name."""
    found, left = set(), list(requirements)
    while left:
        requirement = Requirement(left.pop())
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            distribution = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # what the locks leave out: triton and CUDA's libraries beside a CPU torch
        if distribution.name not in found:
            found.add(distribution.name)
            left += distribution.requires or []
    return found


def test_it_has_the_library_its_types_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    info = f"bnf-{PROJECT['version']}.dist-info/"
    assert all(name.startswith(("bnf/", info)) for name in names)
    assert {"bnf/py.typed", "bnf/objectives/bnf.py", f"{info}licenses/LICENSE"} <= set(names)
    assert [name for name in names if name.endswith(".py")] and not [name for name in names if "__pycache__" in name]


def test_it_imports_beside_the_packages_that_it_names(environment, tmp_path):
    found = json.loads(run(environment, "-c", IMPORT_ALL, cwd=tmp_path))
    assert found["imported"] > 50
    assert set(found["missing"]) <= EXTRAS


def train_as_in_the_readme(python, tmp_path):
    """Run the README's lines on a tiny model, and see that the environment's own package trained it."""
    model = tmp_path / "models" / "SmolLM2-135M-Instruct"
    model.mkdir(parents=True)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMONSTRATION_MODEL / file, model)
    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    config = LlamaConfig(**shape, vocab_size=49152, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(model)
    (tmp_path / "example.py").write_text(block("python", 1) + "\nimport bnf\nprint(bnf.__file__, summary.steps)")
    place, steps = run(python, "example.py", cwd=tmp_path).splitlines()[-1].split()
    assert Path(place).is_relative_to(python.parent.parent) and steps == "2"
    assert (tmp_path / "out" / "policy" / "model.safetensors").exists()


def test_the_training_of_the_readme_runs_in_it(environment, tmp_path):
    train_as_in_the_readme(environment, tmp_path)


def test_its_command_says_where_the_pipeline_is(environment):
    assert run(environment.with_name("bnf"), "--version") == f"bnf {PROJECT['version']}\n"
    done = subprocess.run([environment.with_name("bnf"), "run"], capture_output=True, text=True)
    assert done.returncode == 1 and "clone the repository and run `make env`" in done.stderr


def interpreter(version):
    """The Python of this version: on the path, or one of pyenv's, whose names on the path only work where it is chosen."""
    named = [Path(folder) / f"python{version}" for folder in os.environ["PATH"].split(os.pathsep)]
    for path in [*named, *Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")]:
        if path.exists() and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return path
    pytest.skip(f"no Python {version} on this machine")


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_it_installs_and_compiles_on(version, wheel, tmp_path):
    """Without torch, which a machine has for one Python alone: what imports it is compiled, the rest is imported."""
    assert version in SpecifierSet(PROJECT["requires-python"])
    run(UV, "venv", "--quiet", "--python", interpreter(version), tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(UV, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel)
    (package,) = tmp_path.glob("venv/lib/python*/site-packages/bnf")
    run(python, "-W", "error", "-m", "compileall", "-q", "-f", package)
    found = json.loads(run(python, "-c", IMPORT_ALL, cwd=tmp_path))
    assert found["imported"] > 10
    assert set(found["missing"]) <= {"torch", "transformers", "accelerate", "safetensors", "numpy", "yaml"}


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_it_trains_on(version, wheel, tmp_path):
    """With the package index's torch for this Python. It takes gigabytes, as CUDA's libraries come with it."""
    run(UV, "venv", "--quiet", "--python", interpreter(version), tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    install = [UV, "pip", "install", "--quiet", "--python", python, "--constraint", ROOT / "requirements" / "cpu.txt", wheel]
    # The environment says where the index is, and which certificates it has.
    done = subprocess.run([str(word) for word in install], capture_output=True, text=True)
    if done.returncode and re.search("torch|error sending request|dns error|timed out", done.stderr):
        pytest.skip(f"no torch for Python {version} is to be had here: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr
    found = json.loads(run(python, "-c", IMPORT_ALL, cwd=tmp_path))
    assert found["imported"] > 50 and set(found["missing"]) <= EXTRAS
    train_as_in_the_readme(python, tmp_path)


def test_the_version_stands_in_one_place():
    text = PROJECT["version"]
    files = [*ROOT.glob("*.md"), ROOT / "CITATION.cff", ROOT / "mkdocs.yml", *(ROOT / "docker").iterdir()]
    assert [file.name for file in files if re.search(rf"\b{re.escape(text)}\b", file.read_text())] == []
