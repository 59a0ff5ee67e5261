"""`bnf.training.worker` with shards of few tokens, so that little data make several: `python -m tests.integration.small_shards …`."""

import sys

from bnf.parallel import launch
from bnf.reference import cache
from bnf.training import worker

SHARD_TOKENS = 128

if __name__ == "__main__":
    launch.WORKER = "tests.integration.small_shards"
    cache._SHARD_TOKENS = SHARD_TOKENS
    worker.main(sys.argv[1:])
