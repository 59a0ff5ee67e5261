"""Another node of a training on several nodes: waits for it, runs this node's share of the processes, and ends with it.

    python -m bnf.join FOLDER [--stay]

FOLDER is the training's output folder, which the first node (`python -m bnf.train`) sees under the same path. Reference passes that are
launched there are joined too, on the way. Ends with 0 when the training is done, with 1 when it or a reference pass failed. With --stay it
waits for the next one in both cases. In the pipeline, `bnf join` does the same for the runs of a home folder.
"""

import argparse
import sys

from bnf.parallel.join import calls_in, join
from bnf.paths import person_path


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Gives 0 when the training is done, 1 where something failed, 130 when it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m bnf.join", description="Join a training that another node launches.")
    parser.add_argument("folder", type=person_path, help="the training's output folder")
    parser.add_argument("--stay", action="store_true", help="go on with the next one, for as long as nobody ends it")
    options = parser.parse_args(arguments)
    try:
        return join(lambda: calls_in([options.folder]), stay=options.stay)
    except KeyboardInterrupt:
        # A shell expects 128 and the signal's number.
        return 130


if __name__ == "__main__":
    sys.exit(main())
