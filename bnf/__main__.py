"""The console script `bnf`: runs the pipeline's command line from the checkout around this package."""

from __future__ import annotations

import runpy
import sys
from importlib.metadata import version
from pathlib import Path


def main() -> None:
    """Runs `flows.cli` of this checkout. A bare wheel holds the library alone; then it says where to get the pipeline."""
    root = Path(__file__).resolve().parent.parent
    if not (root / "flows" / "cli.py").is_file():
        if sys.argv[1:] == ["--version"]:
            print(f"bnf {version('bnf')}")
            sys.exit()
        sys.exit("bnf: the pipeline must run from a checkout, got the library alone; clone the repository and run `make env`")
    # First on the path: a folder named `data` or `tasks` elsewhere must not stand in for the project's.
    sys.path.insert(0, str(root))
    sys.argv[0] = "bnf"
    runpy.run_module("flows.cli", run_name="__main__")


if __name__ == "__main__":
    main()
