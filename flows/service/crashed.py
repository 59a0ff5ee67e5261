"""Runs whose process is gone. Prefect would show them as running for ever, and hold their slots."""

from __future__ import annotations

import contextlib
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from flows.runs.home import own_server
from flows.runs.record import CRASHED, RUNNING, all_runs
from flows.service.accelerator import free


def mark_crashed(home: Path) -> None:
    """Mark runs without a process as crashed, in the home and in Prefect's records, and free their slots."""
    runs = all_runs(home)
    gone = [run for run in runs if run.record.state == RUNNING and run.state == CRASHED]
    if gone:
        with get_client(sync_client=True) as client:
            for run in gone:
                # Another server's run: this one knows nothing of it.
                with contextlib.suppress(ObjectNotFound):
                    client.set_flow_run_state(UUID(run.record.flow_run_id), Crashed(message="its process is gone"), force=True)
                run.end(CRASHED)
    # On a server of several homes the slot may be another's; there the lease's end frees it.
    if own_server(home) and not any(run.state == RUNNING for run in runs):
        free()
