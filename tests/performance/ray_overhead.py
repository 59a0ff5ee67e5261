"""What Ray costs a stage, and what replicas gain: `python -m tests.performance.ray_overhead [ENGINE]`, on Linux with two free cores.

Each line is one process that opens an engine, generates greedily and closes it: `alone` on one core, `processes` two replicas of a core
each, `ray one` one worker on Ray (`ray.address: local`), `ray` two of them. `busy` are the seconds that all programs of the machine have
computed meanwhile: others that compute make the times worthless.

`pool` is what Ray Data's map_batches would load. It makes its actors anew for each data set, so each benchmark would load the model again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from evaluation.engines import environment
from tasks.keys import ROOT

PROMPTS, NEW_TOKENS = 128, 32
WAYS = {"alone": (1, {}), "processes": (2, {"num_replicas": 2}), "ray one": (1, {"ray": "local"})}
WAYS["ray"] = (2, {"num_replicas": 2, "ray": "local"})


def measure(name: str, way: str) -> dict[str, float]:
    """Seconds of one process, on as many cores as it has replicas."""
    cores, options = WAYS[way]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    from bnf.data.rendering import load_tokenizer, render_prompt
    from evaluation.engines import open_engine
    from evaluation.types import Sampling
    from tests.integration.vllm_worker import MODEL

    tokenizer = load_tokenizer(MODEL)
    questions = [f"Which number is larger, {number} or {PROMPTS - number}? Say why." for number in range(PROMPTS)]
    prompts = [render_prompt(tokenizer, [{"role": "user", "content": question}]) for question in questions]
    started_s = time.monotonic()
    engine = open_engine(name, MODEL, max_model_len=256, **options)
    opened_s = time.monotonic()
    tokens = 0
    # Once to warm it up, and until all replicas are there.
    list(engine.generate(prompts[:32], Sampling(4)))
    for replica in getattr(engine, "alive", []):
        replica.ready(lambda: False)
    warm_s = time.monotonic()
    for _, found in engine.generate(prompts, Sampling(NEW_TOKENS)):
        tokens += found[0].num_completion_tokens
    done_s = time.monotonic()
    engine.close()
    generated_s = done_s - warm_s
    return {"open_s": opened_s - started_s, "generate_s": generated_s, "tokens_per_s": tokens / generated_s}


def pool(name: str) -> dict[str, float]:
    """Seconds of two passes over data sets of one prompt by Ray Data's pool of actors: each makes its pool anew."""
    import ray

    from evaluation.engines import open_engine
    from tests.integration.vllm_worker import MODEL

    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=1 << 28, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    class Opened:
        def __init__(self) -> None:
            self.engine = open_engine(name, MODEL, max_model_len=256)

        def __call__(self, batch: dict[str, object]) -> dict[str, object]:
            return batch

    found = {}
    for number in (1, 2):
        started_s = time.monotonic()
        one = ray.data.range(1).map_batches(Opened, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=1)
        one.take_all()
        found[f"data_set_{number}_s"] = time.monotonic() - started_s
    return found


def main(name: str) -> None:
    for way in [*WAYS, "pool"]:
        before = _busy()
        done = subprocess.run(
            [sys.executable, "-m", "tests.performance.ray_overhead", name, way],
            cwd=ROOT,
            env={**os.environ, **environment(name), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr[-2000:])
        found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
        load = os.getloadavg()[0]
        print(
            f"{way:10}",
            " ".join(f"{key} {value:.1f}" for key, value in found.items()),
            f"load {load:.1f} busy {_busy() - before:.0f} s",
        )


def _busy() -> float:
    """Seconds that all programs together have computed on this machine."""
    with open("/proc/stat") as file:
        fields = [int(word) for word in file.readline().split()[1:]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    engine_name = sys.argv[1] if len(sys.argv) > 1 else "vllm"
    if len(sys.argv) > 2:
        print(json.dumps(pool(engine_name) if sys.argv[2] == "pool" else measure(engine_name, sys.argv[2])), flush=True)
        os._exit(0)
    main(engine_name)
