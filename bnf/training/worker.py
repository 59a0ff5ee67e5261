"""The processes that `bnf.training.launch` starts: torchrun, which watches over the others, and those that train.

    python -m bnf.training.worker start|train CALL PARENT

CALL is the launcher's launch.json, PARENT the process that starts this one. Nothing imports this module.
"""

import json
import os
import sys
from pathlib import Path

from bnf.process import die_with_parent


def main(arguments: list[str]) -> None:
    """Starts the processes, or trains as one of them."""
    role, call, parent = arguments
    # Before the imports below, which take seconds.
    die_with_parent(int(parent))
    if role == "start":
        _start(Path(call))
    else:
        _train(Path(call))


def _start(call: Path) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    from bnf.training.launch import WORKER, Call

    num_processes = Call.from_json(call.read_text()).config.nproc_per_node
    # A process that failed has failed for good: what the training can go on from lies in its checkpoints.
    options = ["--standalone", f"--nproc-per-node={num_processes}", "--max-restarts=0"]
    try:
        torchrun([*options, "-m", WORKER, "train", str(call), str(os.getpid())])
    except ChildFailedError:
        # The processes have left their reports, or their tracebacks above.
        sys.exit(1)


def _train(call_file: Path) -> None:
    import torch

    from bnf.training.launch import MARK, REPORTED, Call
    from bnf.training.parallel import meet
    from bnf.training.trainer import train

    call = Call.from_json(call_file.read_text())
    rank = int(os.environ["RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    meet()

    def progress(done: int, total: int, note: str) -> None:
        if rank == 0:
            print(MARK + json.dumps([done, total, note]), flush=True)

    try:
        train(call.config, call.folders, step0_check=call.step0_check, progress=progress)
    except Exception as error:
        kind = type(error).__name__
        report = {"kind": kind, "message": str(error)}
        call_file.with_name(f"launch-error-{rank:05d}.json").write_text(json.dumps(report))
        if kind not in REPORTED:
            raise
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
