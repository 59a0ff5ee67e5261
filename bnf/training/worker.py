"""The processes that `bnf.parallel.launch` starts: torchrun, which watches over the others, those that compute, and other nodes.

    python -m bnf.training.worker start CALL PARENT NODE      torchrun, on the node of that number
    python -m bnf.training.worker compute CALL PARENT         one of torchrun's processes
    python -m bnf.training.worker join CALL                   another node, which srun starts
    python -m bnf.training.worker exec PARENT COMMAND …       a command that ends with its parent

CALL is the launcher's launch.json, PARENT the process that starts this one. Nothing imports this module.
"""

import json
import os
import signal
import sys
from pathlib import Path

from bnf.process import die_with_parent


def main(arguments: list[str]) -> None:
    """Plays one of the roles above."""
    role, *words = arguments
    # Before the imports below, which take seconds.
    if role == "exec":
        parent, *command = words
        die_with_parent(int(parent))
        os.execvp(command[0], command)
    elif role == "join":
        _join(Path(words[0]))
    elif role == "start":
        call, parent, node = words
        die_with_parent(int(parent))
        _start(Path(call), int(node))
    else:
        call, parent = words
        die_with_parent(int(parent))
        _compute(Path(call))


def _join(call_file: Path) -> None:
    from bnf.parallel.join import join_one, other_code
    from bnf.parallel.launch import read_launch
    from bnf.parallel.nodes import claim

    launch = read_launch(call_file)
    if launch is None or launch.id is None:
        sys.exit(f"{call_file} must be that of a launch in progress, got one that is over; start the first node again")
    if (other := other_code(call_file, launch)) is not None:
        sys.exit(other)
    number = claim(call_file, launch.id, launch.num_nodes)
    if number is None:
        sys.exit(f"num_nodes must be the number of nodes, got {launch.num_nodes}, and all are here already; start fewer")
    sys.exit(join_one(call_file, launch, number))


def _start(call: Path, node: int) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    from bnf.parallel.launch import KILLED, WORKER, error_file, read_launch
    from bnf.parallel.nodes import WAIT_S

    launch = read_launch(call)
    if launch is None:
        sys.exit(1)  # It has ended meanwhile.
    # A process that failed has failed for good: what the work can go on from lies in its folder.
    options = [f"--nproc-per-node={launch.nproc_per_node}", "--max-restarts=0"]
    if launch.num_nodes == 1:
        options.append("--standalone")
    else:
        options += [f"--nnodes={launch.num_nodes}", f"--node-rank={node}"]
        options += ["--rdzv-backend=static", f"--rdzv-endpoint={launch.meeting_point}", f"--rdzv-id={launch.id}"]
        options.append(f"--rdzv-conf=timeout={WAIT_S:.0f}")
    try:
        torchrun([*options, "-m", WORKER, "compute", str(call), str(os.getpid())])
    except ChildFailedError as error:
        # The processes have left their reports, or their tracebacks above. One that was killed has left nothing.
        for rank, failure in error.failures.items():
            # torchrun itself ends the others, by SIGTERM.
            if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
                name = signal.Signals(-failure.exitcode).name
                hint = ": it may have needed more memory than there was" if name == "SIGKILL" else ""
                message = f"process {rank} was ended by {name}{hint}; started again, the work goes on from what it has written"
                error_file(call, launch.id, rank).write_text(json.dumps({"kind": KILLED, "message": message}))
        sys.exit(1)


def _compute(call_file: Path) -> None:
    import torch

    from bnf.parallel.group import meet
    from bnf.parallel.launch import MARK, error_file, read_launch
    from bnf.training.launch import REPORTED

    launch = read_launch(call_file)
    assert launch is not None
    rank = int(os.environ["RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    meet()

    def progress(done: int, total: int, note: str) -> None:
        if rank == 0:
            print(MARK + json.dumps([done, total, note]), flush=True)

    try:
        if launch.kind == "reference":
            from bnf.reference.launch import ReferenceCall

            ReferenceCall.from_json(call_file.read_text()).run(progress)
        else:
            from bnf.training.launch import Call
            from bnf.training.trainer import train

            call = Call.from_json(call_file.read_text())
            train(call.config, call.folders, step0_check=call.step0_check, progress=progress, checkpoints=call.checkpoints)
    except Exception as error:
        kind = type(error).__name__
        error_file(call_file, launch.id, rank).write_text(json.dumps({"kind": kind, "message": str(error)}))
        if kind not in REPORTED:
            raise
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
