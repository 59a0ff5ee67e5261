"""`bnf.join` on a node whose processes fail: `python -m tests.integration.failing_node FOLDER`."""

import sys

from bnf import join as command
from bnf.parallel import join, launch

NAME = "tests.integration.failing_node"


def fail(*args: object, **kwargs: object) -> None:
    raise FileNotFoundError("model_name_or_path must be a folder with config.json, got none on this node")


if __name__ == "__main__":
    launch.WORKER = join.WORKER = NAME
    if sys.argv[1] in ("start", "compute"):
        from bnf.training import trainer, worker

        trainer.train = fail  # type: ignore[assignment]
        worker.main(sys.argv[1:])
    else:
        sys.exit(command.main())
