"""`bnf worker`: a Prefect worker on this machine, on the home's server or the one of PREFECT_API_URL.

Whatever it starts ends with it. A signal to the command cancels the flow runs first, and then ends the worker. When the command is
killed, the kernel ends the worker (PR_SET_PDEATHSIG), with the worker its flow runs, and with those their stages.
Run as `python -m flows.service.worker PARENT_PID …` it becomes the worker.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from bnf.paths import person_path
from bnf.process import die_with_parent, module_command, module_environment, signal_group
from flows.errors import RecipeError
from flows.runs.home import home_folder, set_prefect_environment
from flows.wording import place
from tasks.keys import ROOT

# A flow run that is told to stop ends its stage, says so to the server, and needs a few seconds for that.
STOP_GRACE_S = 30


def serve(*, pool: str, limit: int, healthcheck: bool) -> int:
    """Execute the pool's flow runs until a signal comes. Returns the worker's exit code where the worker ends by itself.

    Raises:
        RecipeError: the pool doesn't exist.
    """
    home = home_folder()
    # Runs are processes with another working folder.
    os.environ["BNF_HOME"] = str(home)
    store = os.environ.get("BNF_STORE")
    if store and "://" not in store:
        os.environ["BNF_STORE"] = str(person_path(store).absolute())
    # The worker finds a new run within seconds; Prefect's own default is ten.
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")
    # As with --debug: the log of the runs is what this terminal is for.
    set_prefect_environment(home, debug=True)
    from flows.service.server import prefect_server

    with prefect_server(home) as url:
        from flows.service.crashed import mark_crashed

        _require_pool(pool)
        mark_crashed(home)
        print(f"worker of {pool} for {place(home)}\nUI {url}\nCtrl-C ends it, and the runs it executes", flush=True)
        words = ["--pool", pool, "--limit", str(limit), *(["--with-healthcheck"] if healthcheck else [])]
        worker = subprocess.Popen(
            module_command("flows.service.worker", str(os.getpid()), *words),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            # For the flow runs that it starts what `-P` says: a folder named `data` where a run works doesn't stand in for the project's.
            env=module_environment({"PYTHONSAFEPATH": "1"}),
        )
        with _stopped_with(worker):
            return worker.wait()


def _require_pool(pool: str) -> None:
    """Refuse a pool that doesn't exist. Prefect would create one, without deployments and with settings of its own."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            raise RecipeError(f"--pool must be a work pool of the server, got {pool!r}; run `bnf deploy` first") from None


@contextlib.contextmanager
def _stopped_with(worker: subprocess.Popen[bytes]) -> Iterator[None]:
    """End the worker and its flow runs where the body is left by a signal."""
    try:
        yield
    except BaseException:
        _cancel_flow_runs(worker.pid)
        raise
    finally:
        # The group is the worker and its flow runs.
        signal_group(worker.pid, signal.SIGKILL)
        worker.wait()


def _cancel_flow_runs(worker_pid: int) -> None:
    """Have the worker cancel what it executes, and wait until that is done.

    By itself it would kill its flow runs, which then could not end their stages in order or say what became of them.
    """
    import psutil
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    environments = [child.environ() for child in psutil.Process(worker_pid).children()]
    flow_runs = [UUID(found["PREFECT__FLOW_RUN_ID"]) for found in environments if "PREFECT__FLOW_RUN_ID" in found]
    with get_client(sync_client=True) as client:
        for flow_run in flow_runs:
            client.set_flow_run_state(flow_run, Cancelling(message="its worker is stopped"))
        deadline_s = time.monotonic() + STOP_GRACE_S
        while flow_runs and time.monotonic() < deadline_s:
            states = [client.read_flow_run(flow_run).state for flow_run in flow_runs]
            if all(state is not None and state.is_final() for state in states):
                return
            time.sleep(0.2)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    prefect = Path(sys.executable).parent / "prefect"
    os.execv(prefect, [str(prefect), "--no-prompt", "worker", "start", *sys.argv[2:]])
