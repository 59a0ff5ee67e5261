"""`bnf.training.worker` with shards of few tokens, so that little data make several: `python -m tests.integration.small_shards …`."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from bnf.parallel import launch
from bnf.reference import cache
from bnf.training import worker

SHARD_TOKENS = 128
# Names a shard behind which the pass stops, so that it can be killed there.
STOP = "BNF_TEST_STOP_BEHIND"

_write_shard = cache._write_shard


def write_and_stop(path: Path, of_rows: Sequence[dict[str, Tensor]], key: str) -> None:
    _write_shard(path, of_rows, key)
    if path.name == os.environ.get(STOP) and path.parent.name != "dev":
        time.sleep(600)


if __name__ == "__main__":
    launch.WORKER = "tests.integration.small_shards"
    cache._SHARD_TOKENS = SHARD_TOKENS
    cache._write_shard = write_and_stop
    worker.main(sys.argv[1:])
