"""What test_replicas.py runs in a process of its own, beside an engine `echo` that needs no model."""

import json
import os
import sys
import threading

from bnf.parallel.share import WorkerEnded
from evaluation.engines import open_engine, share_chunks
from evaluation.types import Sampling

GREEDY = Sampling(4)


def texts(engine, prompts, sampling=GREEDY):
    """Completions by index, and how many there were."""
    found = list(engine.generate(prompts, sampling))
    return {index: one[0].completion for index, one in found}, len(found)


def shared(folder):
    engine = open_engine("echo", folder, num_replicas=2)
    prompts = [[number] for number in range(40)]
    found, count = texts(engine, prompts)
    sampled, _ = texts(engine, prompts, Sampling(4, temperature=0.7, n=2))
    own, _ = texts(engine, prompts, Sampling(4, temperature=0.7, seeds=range(100, 140)))
    stopped = engine.generate(prompts, GREEDY)
    next(stopped)
    stopped.close()
    after, _ = texts(engine, prompts)
    received = []
    list(engine.generate(prompts[:9], GREEDY, lambda index, found: received.append(index)))
    try:
        texts(engine, [[-1]])
    except ValueError as error:
        refused = str(error)
    unforeseen = []
    for number in (-4, -5):
        try:
            texts(engine, [[number]])
        except (RuntimeError, OSError) as error:
            unforeseen.append(f"{type(error).__name__}: {error}")
    places = {replica.number: texts(replica, [[-2]])[0][0] for replica in engine.alive}
    likely = dict(engine.loglikelihoods([([1, 2], [3]), ([4], [5, 6])]))
    engine.reseed(7)
    seeds = [texts(replica, [[-3]])[0][0] for replica in engine.alive]
    report = {
        "texts": [found[index].split()[0] for index in range(40)],
        "count": count,
        "processes": len({text.split()[1] for text in found.values()}),
        "sampled_by": len({text.split()[1] for text in sampled.values()}),
        "own_seeds": [own[index].split()[0] for index in range(40)],
        "own_seeds_by": len({text.split()[1] for text in own.values()}),
        "after": [after[index].split()[0] for index in range(40)],
        "received": sorted(received),
        "refused": refused,
        "unforeseen": unforeseen,
        "places": places,
        "likely": likely,
        "seeds": seeds,
        "about": [engine.version, engine.max_model_len],
    }
    engine.close()
    return report


def killed(folder):
    engine = open_engine("echo", folder, num_replicas=2)
    prompts = [[number] for number in range(40)]
    prompts[17] = [-9]
    found, count = texts(engine, prompts)
    once = {"texts": [found[index].split()[0] for index in range(40)], "count": count, "alive": len(engine.alive)}

    # Whole chunks, as samples are made: the one in which a replica ends is done again.
    (folder / "killed").unlink()
    engine = open_engine("echo", folder, num_replicas=2)
    chunks, done = [prompts[start : start + 8] for start in range(0, 40, 8)], []

    def work(one, chunk):
        list(one.generate(chunk, Sampling(4, temperature=1.0)))
        done.append(chunk)
        yield chunk[0][0]

    firsts = sorted(share_chunks(engine, chunks, work))
    try:
        list(engine.generate([[-8]] * 3, GREEDY))
    except WorkerEnded as error:
        ended = str(error)
    try:
        texts(engine, prompts)
    except WorkerEnded as error:
        then = str(error)
    return {**once, "firsts": firsts, "chunks": len(done), "alive_then": len(engine.alive), "ended": ended, "next": then}


def failing(folder):
    engine = open_engine("echo", folder, num_replicas=2)
    try:
        texts(engine, [[-4]])
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    engine.close()
    return {"error": found}


def orphaned(folder):
    """Dies, and leaves two replicas at work to end by themselves."""
    engine = open_engine("echo", folder, num_replicas=2)
    print(json.dumps([replica._process.pid for replica in engine.alive]), flush=True)
    threading.Timer(0.5, os.kill, (os.getpid(), 9)).start()
    texts(engine, [[-7], [-7]])


if __name__ == "__main__":
    from pathlib import Path

    print(
        json.dumps(
            {"shared": shared, "failing": failing, "killed": killed, "orphaned": orphaned}[sys.argv[1]](Path(sys.argv[2]))
        )
    )
