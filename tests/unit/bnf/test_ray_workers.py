"""A worker on Ray as its caller sees it, with what Ray says of it made up."""

import time
from types import SimpleNamespace

import pytest

from bnf.parallel.cluster import BEGAN_WITH_GPUS, Cluster, Machine
from bnf.parallel.ray_workers import RayWorker, start_workers
from bnf.parallel.share import WorkerEnded, share_out

ray = pytest.importorskip("ray")
BUSY = ValueError("Free memory on device must be 20 GiB, got 3 GiB")


class Scripted(RayWorker):
    """One that opens, or doesn't, as `openings` says: each time that it is asked, the next."""

    def __init__(self, number, *openings):
        super().__init__(number, SimpleNamespace(about=SimpleNamespace(remote=lambda: "asked")))
        self.openings, self.was_ended = [*openings], False

    def _get(self, reference, timeout_s=None):
        opening = self.openings.pop(0) if len(self.openings) > 1 else self.openings[0]
        if isinstance(opening, Exception):
            raise opening
        return opening

    def end(self):
        self.was_ended = True


def test_a_worker_that_was_started_again_and_does_not_open_costs_its_task_alone(capfd):
    good, bad = Scripted(1, "open"), Scripted(2, "open", BUSY)
    workers = [good, bad]
    assert good.ready(lambda: False) and bad.ready(lambda: False)

    until_s = time.monotonic() + 10

    def work(worker, task):
        while bad in workers and time.monotonic() < until_s:
            time.sleep(0.001)
        yield task

    assert sorted(share_out(workers, range(5), work)) == list(range(5))
    assert workers == [good] and bad.was_ended and not good.was_ended
    assert "worker 2 ended, and didn't open again (Free memory on device must be 20 GiB, got 3 GiB)" in capfd.readouterr().err


def test_what_fails_where_a_worker_first_opens_is_raised():
    with pytest.raises(ValueError, match="Free memory on device"):
        list(share_out([Scripted(1, BUSY)], range(5), lambda worker, task: [task]))


def test_where_none_opens_again_the_last_reason_is_raised():
    one = Scripted(1, "open", BUSY)
    assert one.ready(lambda: False)
    with pytest.raises(WorkerEnded, match=r"didn't open again \(Free memory"):
        list(share_out([one], range(5), lambda worker, task: [task]))


def test_a_cluster_that_is_gone_is_no_workers_end():
    one = Scripted(1, "open", ConnectionError("Ray's cluster must be there"))
    assert one.ready(lambda: False)
    with pytest.raises(ConnectionError, match="must be there"):
        list(share_out([one], range(5), lambda worker, task: [task]))


def test_cpus_do_not_stand_in_for_gpus_that_are_gone(monkeypatch):
    asked = {"number": 1, "opens": None, "opening": None, "num_cpus": 1, "variables": {}}

    class Asked(Exception):
        pass

    def remote(actor):
        raise Asked

    monkeypatch.setattr(ray, "remote", remote)
    began = Cluster((Machine(8, 16), Machine(0, 4)), "10.0.0.4:6379")
    for name, value in began.variables().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError) as refused:
        start_workers(**asked, num_gpus=0)
    assert str(refused.value) == (
        "ray.address must be that of a cluster with GPUs, as the run began on 8 of them, got one that has none left; start Ray again "
        "on a node with GPUs (`ray start --address=HOST:PORT`), and run again: what is complete stays. A run that begins on the "
        "cluster as it is now computes on its CPUs"
    )
    with pytest.raises(Asked):
        start_workers(**asked, num_gpus=1)
    # One that began on CPUs stays there, also where GPUs have come.
    monkeypatch.setenv(BEGAN_WITH_GPUS, Cluster((Machine(0, 4),)).variables()[BEGAN_WITH_GPUS])
    with pytest.raises(Asked):
        start_workers(**asked, num_gpus=0)
    with pytest.raises(ValueError, match="without GPUs, as the run began on CPUs, got one to which GPUs have come; run again"):
        start_workers(**asked, num_gpus=1)
    monkeypatch.delenv(BEGAN_WITH_GPUS)
    with pytest.raises(Asked):
        start_workers(**asked, num_gpus=0)
