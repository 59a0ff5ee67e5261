"""What test_replicas.py runs in a process of its own: samples by one engine, and by two replicas of which one is killed on the way."""

import os
import signal
import sys
from pathlib import Path

CORES = sorted(os.sched_getaffinity(0))[:2]
# One core for each engine, before a library counts them.
os.sched_setaffinity(0, CORES[:1])

from bnf.data.rendering import load_tokenizer  # noqa: E402
from data.sampling.sample import SampleConfig, sample_prompts  # noqa: E402
from evaluation.engines import open_engine  # noqa: E402
from tests.integration.vllm_worker import MODEL, PROMPTS  # noqa: E402


def main(name: str, folder: Path) -> None:
    tokenizer = load_tokenizer(MODEL)
    config = SampleConfig("prompts", len(PROMPTS), 2, temperatures=[0.9, 0.6], top_p=1.0, max_new_tokens=6, seed=3)
    engine = open_engine(name, MODEL, max_model_len=256)
    sample_prompts(engine, tokenizer, PROMPTS, config, folder / "one", lambda *_: None)
    engine.close()

    os.sched_setaffinity(0, CORES)
    engine = open_engine(name, MODEL, max_model_len=256, num_replicas=2)
    assert engine.max_model_len == 256

    killed: list[int] = []

    def kill(done: int, total: int, note: str) -> None:
        # Once: the next progress may come before anyone has seen the end of the process that is gone.
        if 0 < done < total and not killed:
            killed.append(engine.alive[0]._process.pid)
            os.kill(killed[0], signal.SIGKILL)

    sample_prompts(engine, tokenizer, PROMPTS, config, folder / "two", kill)
    print(len(engine.alive))
    engine.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
