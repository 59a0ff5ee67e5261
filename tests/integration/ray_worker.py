"""What test_ray_replicas.py runs in processes of their own, in a checkout with the engine `echo` of test_replicas.py."""

import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path

import psutil

from bnf.parallel.ray_workers import START_SECONDS
from evaluation.engines import open_engine, share_chunks
from evaluation.types import Sampling

GREEDY = Sampling(4)
PROMPTS = [[number] for number in range(200)]


def texts(engine, prompts, sampling=GREEDY, on_both=lambda: None):
    """The texts in the order of the prompts with the processes that wrote them, and how many there were.

    `on_both` is called once two processes have written.
    """
    found, pids = {}, set()
    count = 0
    for index, (one,) in engine.generate(prompts, sampling):
        count += 1
        found[index] = one.completion
        was, pids = len(pids), pids | {one.completion.split()[-1]}
        if (was, len(pids)) == (1, 2):
            on_both()
    return [found[index].split()[0] for index in range(len(prompts))], count, pids


def refusal(call):
    try:
        call()
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def local(folder):
    """Ray on this machine: what replicas share out, one that is killed, prompts that fail or kill, and what can't be opened."""
    report = {}
    engine = open_engine("echo", folder, num_replicas=2, ray="local")
    report["about"] = [engine.version, engine.max_model_len]
    # The first that is open begins.
    while report.get("processes", 0) < 2:
        report["texts"], report["count"], pids = texts(engine, PROMPTS)
        report["processes"] = len(pids)
    report["likely"] = dict(engine.loglikelihoods([([1, 2], [3]), ([4], [5, 6])]))
    report["places"] = [next(replica.generate([[-2]], GREEDY))[1][0].completion for replica in engine.alive]
    report["refused"] = refusal(lambda: texts(engine, [[-1]]))

    prompts = [*PROMPTS[:17], [-9], *PROMPTS[18:]]
    report["killed"], report["killed_count"], _ = texts(engine, prompts)
    report["alive"] = len(engine.alive)

    # Samples of several chunks, each with a seed of its own; the second chunk's replica is killed between seed and prompts.
    (folder / "killed").unlink()
    chunks = [[[-3], [-3]], [[-9], [-3]], [[-3], [-3]]]

    def sample(replica, number):
        replica.reseed(100 + number)
        yield number, [one.completion for _, (one,) in sorted(replica.generate(chunks[number], Sampling(4, temperature=1.0)))]

    report["sampled"] = sorted(share_chunks(engine, range(3), sample))
    engine.reseed(7)
    report["seed"] = next(engine.generate([[-3]], Sampling(4, temperature=1.0)))[1][0].completion
    report["too_many"] = refusal(lambda: open_engine("echo", folder, num_replicas=99, ray="local"))
    print(json.dumps(report), flush=True)
    # Dies, and leaves Ray and two workers to end by themselves.
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
    texts(engine, [[-7], [-7]])


def nodes(folder):
    """A cluster of two nodes, of which one is killed in mid-generation."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ.update(RAY_gcs_server_port_wait_time_s=START_SECONDS)
    small = {"num_cpus": 1, "object_store_memory": 1 << 27}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    other = cluster.add_node(**small)
    os.environ["RAY_ADDRESS"] = cluster.address
    engine = open_engine("echo", folder, num_replicas=2, ray="auto")
    report = {"num_nodes": len(ray.nodes()), "processes_before": 0}
    # The first that is open begins.
    while report["processes_before"] < 2:
        report["processes_before"] = len(texts(engine, PROMPTS)[2])
    raylet = other.all_processes["raylet"][0].process

    def kill():
        # The raylet with its workers: one that is left alone goes on for seconds before it finds out.
        for process in [psutil.Process(raylet.pid), *psutil.Process(raylet.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    report["texts"], report["count"], pids = texts(engine, 25 * PROMPTS, on_both=kill)
    report["processes"] = len(pids)
    report["after"], *_ = texts(engine, PROMPTS)
    print(json.dumps(report), flush=True)
    engine.close()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    {"local": local, "nodes": nodes}[sys.argv[1]](Path(sys.argv[2]))
