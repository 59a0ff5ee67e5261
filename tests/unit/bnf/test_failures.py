"""What a failure's cause is: who has to mend it, and whether another try is worth anything."""

import errno
import socket
import sqlite3
import urllib.error

import aiohttp
import botocore.exceptions
import httpx
import openai
import pytest
import requests
import torch
import yarl
from multidict import CIMultiDict, CIMultiDictProxy
from safetensors import SafetensorError

from bnf.failures import Cause, cause_of, is_transport
from bnf.parallel.share import WorkerEnded
from bnf.training.collapse import TrainingCollapsed
from bnf.training.own_reference import ReferenceMismatch

REQUEST = httpx.Request("POST", "http://judge/v1")
ASKED = aiohttp.RequestInfo(yarl.URL("http://data"), "GET", CIMultiDictProxy(CIMultiDict()), yarl.URL("http://data"))


def answer(status: int) -> httpx.Response:
    return httpx.Response(status, request=REQUEST)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("limit must be positive"), Cause.USER),
        (FileNotFoundError("no such file"), Cause.USER),
        (RuntimeError("a bug"), Cause.OTHER),
        (KeyError("bug"), Cause.OTHER),
        (ConnectionResetError(), Cause.PASSING),
        (TimeoutError(), Cause.PASSING),
        (ReferenceMismatch(""), Cause.PASSING),
        (TrainingCollapsed("loss must be finite"), Cause.USER),
        (httpx.ConnectError("refused"), Cause.PASSING),
        (httpx.HTTPStatusError("", request=REQUEST, response=answer(503)), Cause.PASSING),
        (httpx.HTTPStatusError("", request=REQUEST, response=answer(404)), Cause.OTHER),
        (requests.ConnectionError(), Cause.PASSING),
        (openai.APIConnectionError(request=REQUEST), Cause.PASSING),
        (openai.RateLimitError("", response=answer(429), body=None), Cause.PASSING),
        (openai.InternalServerError("", response=answer(500), body=None), Cause.PASSING),
        (openai.AuthenticationError("", response=answer(401), body=None), Cause.OTHER),
        (aiohttp.ClientOSError(111, "refused"), Cause.PASSING),
        (aiohttp.ServerDisconnectedError(), Cause.PASSING),
        (aiohttp.ClientResponseError(ASKED, (), status=502), Cause.PASSING),
        (aiohttp.ClientResponseError(ASKED, (), status=403), Cause.OTHER),
        (socket.gaierror(-3, "Temporary failure in name resolution"), Cause.PASSING),
        (urllib.error.URLError("timed out"), Cause.PASSING),
        (urllib.error.HTTPError("http://data", 503, "busy", None, None), Cause.PASSING),
        (urllib.error.HTTPError("http://data", 404, "absent", None, None), Cause.USER),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://s3"), Cause.PASSING),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="http://s3"), Cause.PASSING),
        (botocore.exceptions.ClientError({"ResponseMetadata": {"HTTPStatusCode": 503}}, "GetObject"), Cause.PASSING),
        (botocore.exceptions.ClientError({"ResponseMetadata": {"HTTPStatusCode": 403}}, "GetObject"), Cause.OTHER),
        (MemoryError(), Cause.MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), Cause.MEMORY),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
            Cause.MEMORY,
        ),
        (ValueError("No available memory for the cache blocks. Try increasing gpu_memory_utilization"), Cause.MEMORY),
        (WorkerEnded("replica 2 of the engine ended (SIGKILL, often the kernel's out-of-memory killer)"), Cause.MEMORY),
        (OSError(errno.ENOSPC, "No space left on device"), Cause.DISK),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_cause(error, cause):
    assert cause_of(error) is cause


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (httpx.ConnectError("refused"), True),
        (requests.ConnectionError(), True),
        (aiohttp.ClientPayloadError(), True),
        (httpx.HTTPStatusError("", request=REQUEST, response=answer(503)), False),
        (urllib.error.HTTPError("http://data", 503, "busy", None, None), False),
        (ReferenceMismatch(""), False),
        (FileNotFoundError("no such file"), False),
    ],
    ids=lambda value: str(value) if isinstance(value, bool) else type(value).__name__,
)
def test_an_error_of_a_connection_is_one_where_no_server_answered(error, is_one):
    assert is_transport(error) is is_one


def test_what_an_error_was_raised_from_counts():
    def fetch(status):
        try:
            raise httpx.HTTPStatusError("", request=REQUEST, response=answer(status))
        except httpx.HTTPError as error:
            raise ValueError("model_name_or_path must be a folder or a hub id that can be fetched") from error

    with pytest.raises(ValueError) as busy:
        fetch(503)
    with pytest.raises(ValueError) as absent:
        fetch(404)
    assert cause_of(busy.value) is Cause.PASSING and cause_of(absent.value) is Cause.USER


def test_the_allocators_own_error_is_known():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 50)
    assert cause_of(error.value) is Cause.MEMORY


def test_a_full_disk_is_known_by_what_libraries_say_of_it(tmp_path):
    base = sqlite3.connect(tmp_path / "rows.sqlite")
    base.execute("pragma max_page_count = 2")
    base.execute("create table rows (text text)")
    with pytest.raises(sqlite3.OperationalError) as error:
        base.execute("insert into rows values (?)", ["x" * 100_000])
    assert cause_of(error.value) is Cause.DISK
    # safetensors has errors of its own, without a number.
    words = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert cause_of(SafetensorError(words)) is Cause.DISK
