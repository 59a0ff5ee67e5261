"""What nodes need of a machine, and which variables give a process its devices."""

import os
import sys

import pytest

from tasks import resources
from tasks.nodes import Node
from tasks.resources import CPU_SLOTS, DEVICES, ENDPOINTS, Devices, machine_devices, most_devices, needs_of

LOCAL = {"engine": {"name": "vllm"}}


def placed(**options):
    return {"engine_placement": options}


@pytest.mark.parametrize(
    ("node", "needs"),
    [
        (Node("generate", LOCAL), {DEVICES: 1}),
        (Node("generate", LOCAL, unkeyed=placed(tensor_parallel_size=2, num_replicas=2)), {DEVICES: 4}),
        (Node("generate", LOCAL, unkeyed=placed(num_replicas=16)), {DEVICES: 8}),
        (Node("label", {"engine": {"name": "reward_model"}}), {DEVICES: 1}),
        (Node("judge", {"engine": {"name": "openai"}}), {ENDPOINTS: 1}),
        (Node("train", {}, unkeyed={"nproc_per_node": 4, "num_nodes": 1}), {DEVICES: 4}),
        (Node("reference", {}, unkeyed={"nproc_per_node": 2, "num_nodes": 2}), {DEVICES: 8}),
        (Node("budget", {"train": {"nproc_per_node": 2, "num_nodes": 1}}), {DEVICES: 2}),
        (Node("measure", {}), {DEVICES: 1}),
        # Ray doesn't know what a run has given to others; within the process alone it has what the process has.
        (Node("generate", LOCAL, unkeyed={"ray": "auto"}), {DEVICES: 8}),
        (Node("generate", LOCAL, unkeyed={**placed(num_replicas=2), "ray": "local"}), {DEVICES: 2}),
        (Node("reference", {}, unkeyed={"nproc_per_node": 1, "num_nodes": 1, "ray": "local"}), {DEVICES: 8}),
        (Node("prepare", {"prepare": {}}, unkeyed={"ray": "auto"}), {CPU_SLOTS: 1}),
        (Node("score", {}), {CPU_SLOTS: 1}),
        (Node("prepare", {"prepare": {}}), {CPU_SLOTS: 1}),
    ],
)
def test_a_node_takes_the_devices_of_its_processes(node, needs, monkeypatch):
    gpus(monkeypatch, 8, None)
    assert needs_of(node, 8) == needs


def test_rows_are_tried_without_gpus_where_no_other_model_takes_memory(monkeypatch):
    gpus(monkeypatch, 0, None)
    train = {"nproc_per_node": 1, "num_nodes": 1}
    assert needs_of(Node("budget", {"train": train}), 2) == {DEVICES: 2}
    assert needs_of(Node("train", {}, unkeyed=train), 2) == {DEVICES: 1}


def gpus(monkeypatch, number, visible):
    monkeypatch.setattr(resources, "devices", lambda: [("H100", 80 << 30)] * number)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


def test_gpus_are_those_that_are_visible(monkeypatch):
    gpus(monkeypatch, 4, None)
    found = machine_devices(None)
    assert found.total == most_devices() == 4 and found.environment([1, 3]) == {"CUDA_VISIBLE_DEVICES": "1,3"}
    assert found.environment([0, 1, 2, 3]) == {} == found.environment([])
    gpus(monkeypatch, 2, "5,GPU-8a")
    assert machine_devices(None).environment([1]) == {"CUDA_VISIBLE_DEVICES": "GPU-8a"}
    some = machine_devices(1)
    assert some.total == 1 and some.environment([0]) == {"CUDA_VISIBLE_DEVICES": "5"}, "the other is somebody else's"


def test_without_gpus_the_cores_are_one_device_or_as_many_as_asked_for(monkeypatch):
    monkeypatch.setattr(resources, "devices", list)
    monkeypatch.setattr(resources, "own_cores", lambda: [2, 3, 4, 7, 8])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine_devices(None) == machine_devices(1) == Devices()
    assert Devices().total == 1 and Devices().environment([0]) == {}
    found = machine_devices(2)
    assert found.environment([0]) == {"BNF_CORES": "2,3", "OMP_NUM_THREADS": "2"}
    assert found.environment([1]) == {"BNF_CORES": "4,7,8", "OMP_NUM_THREADS": "3"}
    assert found.environment([0, 1]) == {}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert found.environment([1])["OMP_NUM_THREADS"] == "1", "what the user has set stays"
    assert most_devices() == (5 if sys.platform == "linux" else 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are given to processes on Linux alone")
def test_a_process_takes_the_cores_that_it_was_given(monkeypatch):
    from bnf.process import take_cores

    before = os.sched_getaffinity(0)
    try:
        take_cores()
        assert os.sched_getaffinity(0) == before
        monkeypatch.setenv("BNF_CORES", str(min(before)))
        take_cores()
        assert os.sched_getaffinity(0) == {min(before)}
    finally:
        os.sched_setaffinity(0, before)
