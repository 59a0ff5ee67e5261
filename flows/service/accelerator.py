"""Lets one stage at a time use a machine's accelerator: its GPUs, or its cores where it has none. The UI shows it as a concurrency limit.

Its number of slots can be changed there. Prefect gives a slot for a minute, by the server's clock, and renews it: a clock that jumps, a
machine that was suspended or a server that is gone would let two runs compute at once. So the runs of a home lock a file for each slot
too, which the kernel frees when its holder is gone. A process that is killed holds its slot on the server until the lease ends; `free`
gives it back sooner.
"""

from __future__ import annotations

import contextlib
import fcntl
import platform
import time
from collections.abc import Callable, Iterator

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flows.runs.home import home_folder, own_server
from tasks.child import Cancelled

# The shortest lease that Prefect gives; it is renewed in time for as long as the holder lives.
LEASE_S = 60
ASK_AGAIN_S = 5.0
_LOOK_S = 1.0
_ANSWER_S = 20.0


def limit_name() -> str:
    """The limit's name. Machines that share a Prefect server have one each."""
    return f"accelerator-{platform.node() or 'this-machine'}"


@contextlib.contextmanager
def accelerator(
    cancelled: Callable[[], bool], on_wait: Callable[[], None], on_unshown: Callable[[Exception], None] = lambda error: None
) -> Iterator[None]:
    """Hold the machine's accelerator; wait while other runs hold it, and call `on_wait` once.

    A server that is gone or ill stops no run: `on_unshown` is told, and the home's own lock alone keeps runs apart.

    Raises:
        Cancelled: the run was cancelled while it waited.
    """
    is_told = False

    def wait_for(take: Callable[[], bool]) -> None:
        nonlocal is_told
        while not take():
            if cancelled():
                raise Cancelled("the run was cancelled while it waited for the accelerator")
            if not is_told:
                on_wait()
                is_told = True

    with contextlib.ExitStack() as held:
        wait_for(lambda: _lock_slot(held, _limit(on_unshown)))
        wait_for(lambda: _take_slot(held, on_unshown))
        try:
            yield
        finally:
            # What was computed counts though the server is gone when it ends; the lease then ends by itself.
            try:
                held.close()
            except Exception as error:
                on_unshown(error)


def _limit(on_unshown: Callable[[Exception], None]) -> GlobalConcurrencyLimitResponse | None:
    """The limit, which is made where there is none; None where the server doesn't say."""
    try:
        # With settings of its own the client is a new one, which gives up at once where nothing answers. The flow's own tries for a minute.
        with get_client(sync_client=True, httpx_settings={"timeout": _ANSWER_S}) as client:
            _create(client, limit_name())
            return client.read_global_concurrency_limit_by_name(limit_name())
    except Exception as error:
        on_unshown(error)
        return None


def _lock_slot(held: contextlib.ExitStack, limit: GlobalConcurrencyLimitResponse | None) -> bool:
    """Lock one of the home's slots, until `held` is closed; False where other runs have locked them all."""
    if limit is not None and not limit.active:
        return True
    folder = home_folder() / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1 if limit is None else limit.limit):
        handle = (folder / f"{limit_name()}-{number}.lock").open("a")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
        else:
            held.callback(handle.close)
            return True
    time.sleep(_LOOK_S)
    return False


def _take_slot(held: contextlib.ExitStack, on_unshown: Callable[[Exception], None]) -> bool:
    """Take a slot on the server, until `held` is closed; False where others have them all, and are waited for."""
    try:
        held.enter_context(
            # A server that can't be reached for a while must not end hours of training.
            concurrency(
                limit_name(),
                strict=True,
                timeout_seconds=ASK_AGAIN_S,
                lease_duration=LEASE_S,
                raise_on_lease_renewal_failure=False,
            )
        )
    except TimeoutError:
        if own_server(home_folder()):
            # The home's lock is ours: the holder is gone, or the server has forgotten its lease.
            with contextlib.suppress(Exception):
                free()
        return False
    except Exception as error:
        on_unshown(error)
    return True


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
