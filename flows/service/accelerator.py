"""Lets one stage at a time use a machine's accelerator: its GPUs, or its cores where it has none. The UI shows it as a concurrency limit.

Its number of slots can be changed there. A process that is killed holds its slot until the lease ends; `free` gives it back sooner.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from tasks.child import Cancelled

# The shortest lease that Prefect gives; it is renewed in time for as long as the holder lives.
LEASE_S = 60
ASK_AGAIN_S = 5.0


def limit_name() -> str:
    """The limit's name. Machines that share a Prefect server have one each."""
    return f"accelerator-{platform.node() or 'this-machine'}"


@contextlib.contextmanager
def accelerator(cancelled: Callable[[], bool], on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the machine's accelerator; wait while other runs hold it, and call `on_wait` once.

    Raises:
        Cancelled: the run was cancelled while it waited.
    """
    name = limit_name()
    with get_client(sync_client=True) as client:
        _create(client, name)
    with contextlib.ExitStack() as held:
        waited = False
        while True:
            try:
                held.enter_context(
                    # A server that can't be reached for a while must not end hours of training.
                    concurrency(
                        name,
                        strict=True,
                        timeout_seconds=ASK_AGAIN_S,
                        lease_duration=LEASE_S,
                        raise_on_lease_renewal_failure=False,
                    )
                )
                break
            except TimeoutError:
                if cancelled():
                    raise Cancelled("the run was cancelled while it waited for the accelerator") from None
                if not waited:
                    on_wait()
                    waited = True
        try:
            yield
        finally:
            # What was computed counts though the server is gone when it ends; the lease then ends by itself.
            with contextlib.suppress(httpx.HTTPError):
                held.close()


def free() -> None:
    """Give back every slot. For a server whose runs have all ended."""
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectNotFound):
        client.update_global_concurrency_limit(limit_name(), GlobalConcurrencyLimitUpdate(active_slots=0))


def _create(client: SyncPrefectClient, name: str) -> None:
    try:
        client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        # Another run may have been faster.
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
