"""The side of a worker on Ray that computes: it opens what it holds, and answers one message after another. Its caller's: `ray_workers`."""

from __future__ import annotations

import platform
import queue
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from bnf.parallel.code import code_digest
from bnf.parallel.sent_errors import SentError
from bnf.parallel.share import WorkerEnded
from bnf.parallel.worker_cores import stay_on_cores

# How long a reply may wait for others to go with it.
TAKE_WAITS_S = 1.0

A = TypeVar("A")
M = TypeVar("M")
R = TypeVar("R")
O = TypeVar("O")  # noqa: E741
M_in = TypeVar("M_in", contravariant=True)
R_out = TypeVar("R_out", covariant=True)


class Server(Protocol[M_in, R_out, A]):
    """What a worker holds once it is open, such as a loaded model.

    Attributes:
        about: what its caller has to know of it.
    """

    about: A

    def __call__(self, message: M_in) -> Iterator[R_out]:
        """The replies to one message, as they are there."""
        ...

    def close(self) -> None:
        """Called before the worker ends."""
        ...


class _End:
    """Stands behind the last reply to a message, with what has failed."""

    def __init__(self, failed: Exception | None) -> None:
        self.failed = failed


class WorkerActor(Generic[O, M, R, A]):
    """The worker's side. One thread opens what it holds and does all the work, as some libraries keep things by thread."""

    def __init__(self, number: int, opens: Callable[[O], Server[M, R, A]], opening: O, code: str, num_cores: int) -> None:
        self._number, self._opens, self._opening, self._code = number, opens, opening, code
        # Cores are held for as long as the files are open, so also a worker that is killed gives its own back.
        self._cores = stay_on_cores(num_cores)
        # One that is started again is another one.
        self._life = uuid.uuid4().hex
        self._server: Server[M, R, A] | None = None
        self._failed: Exception | None = None
        self._is_open = threading.Event()
        self._messages: queue.Queue[tuple[M, queue.Queue[R | _End]]] = queue.Queue()
        self._replies: queue.Queue[R | _End] = queue.Queue()
        threading.Thread(target=self._serve, daemon=True).start()

    def __repr__(self) -> str:
        """What Ray writes before the lines that it passes on."""
        return f"worker {self._number}"

    def about(self) -> A:
        """What the server says of itself, once it is open. What fails then is raised here: at its start it would come back as text."""
        self._is_open.wait()
        if self._failed is not None:
            raise self._failed
        assert self._server is not None
        return self._server.about

    def start(self, message: M) -> str:
        """Begin to work on a message; `take` gives the replies. The one before is left off."""
        self.about()
        self._replies = queue.Queue()
        self._messages.put((message, self._replies))
        return self._life

    def take(self, life: str) -> tuple[list[R], bool]:
        """The replies since the last time, and whether that was all; it waits up to a second for one."""
        if life != self._life:
            raise WorkerEnded(f"worker {self._number} was started again")
        taken: list[R] = []
        with suppress(queue.Empty):
            reply = self._replies.get(timeout=TAKE_WAITS_S)
            while not isinstance(reply, _End):
                taken.append(reply)
                reply = self._replies.get_nowait()
            if reply.failed is None:
                return taken, True
            if not taken:
                raise reply.failed
            self._replies.put(reply)
        return taken, False

    def close(self) -> None:
        """Close what the worker holds."""
        if self._server is not None:
            self._server.close()

    def _serve(self) -> None:
        try:
            if (own := code_digest()) != self._code:
                raise ValueError(
                    f"every node of a Ray cluster must compute with {self._code}, got {own}; install the same versions"
                )
            self._server = self._opens(self._opening)
            print(f"open on {platform.node()}", flush=True)
        except SystemExit as error:
            self._failed = RuntimeError(
                f"what worker {self._number} opens must not end it, got exit {error.code}; its log has why"
            )
        except BaseException as error:
            self._failed = SentError.of(error).error()
        self._is_open.set()
        while self._server is not None:
            message, replies = self._messages.get()
            failed = None
            try:
                for reply in self._server(message):
                    if replies is not self._replies:
                        break
                    replies.put(reply)
            except BaseException as error:
                # A panic of a library in Rust is no Exception; the caller waits for an end.
                failed = SentError.of(error).error()
            replies.put(_End(failed))
