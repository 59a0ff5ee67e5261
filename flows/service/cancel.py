"""Cancelling a run from outside: from the UI, or by `bnf cancel`.

Prefect sends a signal to a flow that a worker started. A flow that a command started is told nothing, so a thread asks for the state of
its flow run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling

INTERVAL_S = 2.0
CANCELLED = (StateType.CANCELLING, StateType.CANCELLED)


@contextmanager
def cancellation(flow_run_id: UUID) -> Iterator[Callable[[], bool]]:
    """A function that says whether somebody has cancelled the flow run."""
    asked, over = threading.Event(), threading.Event()

    def watch() -> None:
        with get_client(sync_client=True) as client:
            while not over.wait(INTERVAL_S) and not asked.is_set():
                try:
                    state = client.read_flow_run(flow_run_id).state
                except Exception:
                    # A server that is gone for a while, or ill, can't cancel anything meanwhile.
                    continue
                if state is not None and state.type in CANCELLED:
                    asked.set()

    thread = threading.Thread(target=watch, name="cancellation", daemon=True)
    thread.start()
    try:
        yield asked.is_set
    finally:
        over.set()
        # It may be waiting for a server that is gone.
        thread.join(INTERVAL_S)


def was_cancelled(flow_run_id: UUID) -> bool:
    """Whether somebody has cancelled the flow run, asked of the server: the signal of a worker doesn't say why it is sent."""
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(flow_run_id).state
    except httpx.HTTPError:
        return False
    return state is not None and state.type in CANCELLED


def cancel(flow_run_id: UUID) -> None:
    """Ask a running flow run to end."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run_id, Cancelling(message="cancelled by `bnf cancel`"))
