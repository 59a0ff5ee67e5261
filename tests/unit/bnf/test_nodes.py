"""Where nodes meet, and how they know one another. Slurm is played by executables in a folder of the PATH."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bnf.parallel import join as joining
from bnf.parallel import launch as launching
from bnf.parallel import nodes
from bnf.parallel.code import code_digest
from bnf.parallel.join import calls_in, join, join_one
from bnf.parallel.launch import Launch, launch, read_launch
from bnf.parallel.nodes import Pulse, beat, claim, joined, node_file
from bnf.parallel.placement import Placement, check_meeting_point
from bnf.parallel.slurm import slurm_job, srun_command
from bnf.training.config import TrainConfig
from tests.unit.bnf.training import ignore

SLURM = {"SLURM_JOB_ID": "47011", "SLURM_JOB_NODELIST": "gpu[08-10,12],login1", "SLURMD_NODENAME": "gpu08"}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which commands are found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def executable(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PET_RDZV_ENDPOINT": "a", "MASTER_ADDR": "b"}, "a:29500"),
        ({"PET_RDZV_ENDPOINT": "a:1234"}, "a:1234"),
        ({"MASTER_ADDR": "b", "MASTER_PORT": "77", **SLURM}, "b:77"),
        ({"MASTER_ADDR": "b"}, "b:29500"),
        ({"PET_MASTER_ADDR": "c", "PET_MASTER_PORT": "78"}, "c:78"),
        # 15000 + 47011 modulo 15000
        (SLURM, "gpu08:17011"),
        ({**SLURM, "SLURMD_NODENAME": "gpu10"}, "gpu10:17011"),
    ],
)
def test_the_environment_says_where_nodes_meet(path: Path, environment: dict[str, str], expected: str) -> None:
    assert Placement(num_nodes=2).meeting_point(environment) == expected
    assert Placement(num_nodes=2, rdzv_endpoint="[fe80::1]:5").meeting_point(environment) == "[fe80::1]:5"


def test_without_a_meeting_point_the_key_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"rdzv_endpoint must be given where num_nodes is 2 .* write train.rdzv_endpoint=HOST:29500"
    ):
        Placement(num_nodes=2).meeting_point({})


@pytest.mark.parametrize("wrong", ["node1", "node1:", "node1:x", "http://node1:1", "no de:1"])
def test_a_wrong_endpoint_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="rdzv_endpoint must be HOST:PORT, got"):
        TrainConfig(num_nodes=2, rdzv_endpoint=wrong)
    with pytest.raises(ValueError, match="PET_RDZV_ENDPOINT must be HOST:PORT, got 'node1:99999'"):
        Placement(num_nodes=2).meeting_point({"PET_RDZV_ENDPOINT": "node1:99999"})


def test_a_list_of_nodes_is_read_as_slurm_writes_it(path: Path) -> None:
    job = slurm_job(SLURM)
    assert job is not None and job.nodes == ("gpu08", "gpu09", "gpu10", "gpu12", "login1")
    assert job.others(3) == ["gpu09", "gpu10"]
    job = slurm_job({**SLURM, "SLURM_JOB_NODELIST": "rack[1-2]n[09-10]x", "SLURMD_NODENAME": "rack2n10x"})
    assert job is not None and job.nodes == ("rack1n09x", "rack1n10x", "rack2n09x", "rack2n10x")
    # scontrol knows better, where it is there.
    asked = f"show hostnames {SLURM['SLURM_JOB_NODELIST']}"
    executable(path / "scontrol", f"#!/bin/sh\n[ \"$1 $2 $3\" = '{asked}' ] && echo x1 && echo gpu08\n")
    job = slurm_job(SLURM)
    assert job is not None and job.nodes == ("x1", "gpu08")


def test_a_slurm_job_that_does_not_fit_is_refused(path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"must be started on a node of the Slurm job .*, got elsewhere; put the command into a script"
    ):
        slurm_job({**SLURM, "SLURMD_NODENAME": "elsewhere"})
    job = slurm_job({**SLURM, "SLURM_JOB_NODELIST": "gpu08"})
    assert job is not None
    with pytest.raises(ValueError, match=r"num_nodes must be at most the 1 nodes of the Slurm job, got 2; .*--nodes=2"):
        job.others(2)
    assert slurm_job({}) is None


def test_srun_is_asked_for_by_an_argument_list() -> None:
    command = srun_command(["b", "c"], ["python", "a b"])
    assert command[0] == "srun" and command[-2:] == ["python", "a b"]
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--nodelist=b,c", "--overlap"} <= set(command)


@pytest.mark.parametrize(
    ("environment", "number"),
    [
        ({}, 0),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, 1),
        # The command is one step of one process, of a job of two nodes.
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_NNODES": "2"}, 0),
        ({"JOB_COMPLETION_INDEX": "1"}, 1),
        ({"PET_NODE_RANK": "1"}, 1),
    ],
)
def test_the_same_command_on_every_node_knows_which_it_is(environment: dict[str, str], number: int) -> None:
    assert Placement(num_nodes=2).node_number(environment) == number


def test_each_node_takes_a_number_of_its_own(tmp_path: Path) -> None:
    call_file = tmp_path / "launch.json"
    assert [claim(call_file, "a", 3) for _ in range(3)] == [1, 2, None]
    assert claim(call_file, "b", 3) == 1
    assert joined(call_file, "a", 3).keys() == {1, 2}


def test_a_file_that_is_touched_no_more_is_of_a_node_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    os.utime(file, (1, 1))
    pulse = Pulse(file)
    assert not pulse.has_beaten() and pulse.lives()
    beat(file)
    assert pulse.has_beaten() and pulse.lives()
    monkeypatch.setattr(nodes, "SILENT_S", 0.05)
    time.sleep(0.1)
    assert not pulse.lives()
    # A file system that is away for a moment gives no sign of life, and no error.
    file.unlink()
    beat(file)
    assert not pulse.lives()


def test_a_node_that_never_comes_ends_the_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "WAIT_S", 0.3)
    notes: list[str] = []
    placement = Placement(num_nodes=3, rdzv_endpoint="localhost:29999")
    (tmp_path / "launch-old-node-00001.json").write_text("of an earlier launch")
    with pytest.raises(
        RuntimeError,
        match=r"3 nodes must come within 0 s, got 2 too few \(here beside this one: none\); run `bnf join`, or `python -m",
    ):
        launch(
            "train", {"config": {}}, tmp_path, placement, {}, lambda done, total, note: notes.append(f"{done}/{total} {note}")
        )
    assert notes == [f"1/3 of 3 nodes are here; run `bnf join`, or `python -m bnf.join {tmp_path}`, on each of the others"]
    # It says what was called, and is nobody's to join.
    assert [file.name for file in tmp_path.iterdir()] == ["launch.json"]
    left = read_launch(tmp_path / "launch.json")
    assert left is not None and left.id is None and left.num_nodes == 3


def test_slurms_other_nodes_are_started_and_end_with_the_launch(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """srun is played by a script that says what it was asked for and waits; no other node comes."""
    asked = tmp_path / "asked"
    executable(path / "srun", f'#!/bin/sh\necho "$$ $*" > {asked}\nread nothing < {tmp_path / "never"}\n')
    os.mkfifo(tmp_path / "never")
    for name, value in {**SLURM, "SLURM_JOB_NODELIST": "gpu08,gpu09"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launching, "WAIT_S", 2.0)
    monkeypatch.setattr(launching, "_LAST_WORDS_S", 0.1)
    folder = tmp_path / "out"
    with pytest.raises(RuntimeError, match=r"2 nodes must come .* expected: gpu09\)"):
        launch("train", {}, folder, Placement(num_nodes=2), {}, ignore)
    pid, words = asked.read_text().split(" ", 1)
    assert "--nodelist=gpu09 " in words and words.strip().endswith(f"-m bnf.training.worker join {folder / 'launch.json'}")
    assert not Path(f"/proc/{pid}").exists()


def test_an_srun_that_fails_ends_the_launch(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(path / "srun", "#!/bin/sh\nexit 3\n")
    for name, value in {**SLURM, "SLURM_JOB_NODELIST": "gpu08,gpu09"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        RuntimeError, match=r"srun must start the other nodes \(gpu09\), got exit 3 \(here: none\); its output says why"
    ):
        launch("train", {}, tmp_path / "out", Placement(num_nodes=2), {}, ignore)


def test_launches_are_found_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "launch.json").touch()
    found = list(calls_in([tmp_path]))
    assert found == [tmp_path / "launch.json", tmp_path / "reference" / "launch.json"]


def test_a_launch_that_is_over_or_full_or_dead_is_not_joined(tmp_path: Path) -> None:
    files = []
    for name, id_, num_nodes in (("over", None, 2), ("full", "f", 2), ("dead", "d", 2), ("alone", "a", 1)):
        files.append(tmp_path / name / "launch.json")
        files[-1].parent.mkdir()
        call = {"id": id_, "kind": "train", "nproc_per_node": 1, "num_nodes": num_nodes, "meeting_point": None}
        files[-1].write_text(json.dumps({"launch": call}))
    claim(files[1], "f", 2)
    looks = 0

    class Enough(Exception):
        pass

    def find() -> list[Path]:
        nonlocal looks
        looks += 1
        if looks == 4:
            raise Enough
        for file in (files[0], files[1], files[3]):
            beat(file)
        return files

    with pytest.raises(Enough):
        join(find)
    assert not node_file(files[2], "d", 1).exists() and not node_file(files[3], "a", 1).exists()


def test_a_node_that_ended_ends_the_processes_that_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has taken its file away, as one whose processes failed does. nccl may wait for them without an error."""
    monkeypatch.setattr(nodes, "SILENT_S", 0.3)
    monkeypatch.setattr(launching, "BEAT_S", 0.05)
    file = tmp_path / "node"
    file.touch()
    others = launching._Others({1: Pulse(file)}, {1: "elsewhere"})
    file.unlink()
    with (
        subprocess.Popen(["sleep", "60"], text=True) as process,
        launching._watching(tmp_path / "launch.json", others, process),
    ):
        assert process.wait(timeout=30) == -signal.SIGKILL
    assert others.silent == "node 1 (elsewhere)"


@pytest.mark.parametrize(("is_over", "code"), [(False, 0), (True, 1)])
def test_a_launch_is_over_where_its_file_is_gone_and_not_where_it_cannot_be_read(
    is_over: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(joining, "_LOOK_S", 0.01)
    monkeypatch.setattr(joining, "_GRACE_S", 0.2)
    # The node's processes, which go on for as long as they would after the grace.
    monkeypatch.setattr(joining, "module_command", lambda *words: ["sleep", "1"])
    call = Launch("a", "train", 1, 2, "localhost:1")
    looks = 0

    def look(file: Path) -> Launch | None:
        nonlocal looks
        looks += 1
        if is_over:
            return None
        if looks % 2:
            raise OSError("stale file handle")
        # Once it is not to be seen, and a moment later it is.
        return None if looks == 2 else call

    monkeypatch.setattr(joining, "read_launch", look)
    assert join_one(tmp_path / "launch.json", call, 1) == code and looks > 10
    assert ("the launch is over, and the processes of this node did not end" in capsys.readouterr().err) == is_over


@pytest.mark.integration
def test_processes_wait_for_the_first_one_longer_than_torchs_limits() -> None:
    """In a process of its own, as a process meets others once."""
    script = (
        "import torch.distributed as dist\n"
        "from bnf.parallel.group import meet\n"
        "meet()\n"
        "print(dist.group.WORLD._get_backend(__import__('torch').device('cpu')).options._timeout.total_seconds())\n"
    )
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=os.environ | alone)
    assert float(done.stdout.split()[-1]) == 12 * 3600


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])


def test_a_meeting_point_that_nobody_can_reach_is_refused_before_nodes_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_meeting_point(f"localhost:{free_port()}")
    monkeypatch.setattr("bnf.parallel.placement._KNOWN_WITHIN_S", 0.0)
    with pytest.raises(
        ValueError, match=r"rdzv_endpoint must name this machine, got 'no-such-node.invalid:29500' .*; write the name"
    ):
        launch("train", {}, tmp_path, Placement(num_nodes=2, rdzv_endpoint="no-such-node.invalid:29500"), {}, ignore)
    with socket.create_server(("", 0)) as other:
        endpoint = f"localhost:{other.getsockname()[1]}"
        with pytest.raises(
            ValueError, match=f"must have a port that is free on the first node, got '{endpoint}' .*; take another"
        ):
            launch("train", {}, tmp_path, Placement(num_nodes=2, rdzv_endpoint=endpoint), {}, ignore)


def test_a_node_with_other_code_ends_and_the_first_node_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[BaseException] = []

    def first() -> None:
        try:
            launch("train", {}, tmp_path, Placement(num_nodes=2, rdzv_endpoint=f"localhost:{free_port()}"), {}, ignore)
        except ValueError as error:
            raised.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    while not (tmp_path / "launch.json").exists():
        time.sleep(0.05)
    monkeypatch.setattr("bnf.parallel.join.code_digest", lambda: "bnf of last week")
    assert join(lambda: calls_in([tmp_path])) == 1
    thread.join()
    [error] = raised
    assert re.fullmatch(
        r"every node must have the code of the first one \(bnf [0-9a-f]{12} torch .*\), got bnf of last week on .*", str(error)
    )
    assert not node_file(tmp_path / "launch.json", "", 1).exists()


def test_a_node_with_the_same_code_takes_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[dict[int, str]] = []
    monkeypatch.setattr(launching, "_run", lambda call_file, started, others, reported, progress: ran.append(others.names))
    monkeypatch.setattr("bnf.parallel.join.join_one", lambda call_file, started, number: 0)
    placement = Placement(num_nodes=2, rdzv_endpoint=f"localhost:{free_port()}")
    thread = threading.Thread(target=launch, args=("train", {}, tmp_path, placement, {}, ignore))
    thread.start()
    assert join(lambda: calls_in([tmp_path])) == 0
    thread.join()
    assert ran == [{1: socket.gethostname()}]


def test_the_digest_is_that_of_the_files_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = code_digest()
    assert own == code_digest()
    monkeypatch.setattr("bnf.parallel.code._PACKAGE", tmp_path)
    empty = code_digest()
    (tmp_path / "more.py").write_text("x = 1")
    assert len({own, empty, code_digest()}) == 3


def test_a_second_launch_in_a_folder_is_refused_and_the_first_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "WAIT_S", 3.0)
    raised: list[BaseException] = []

    def first() -> None:
        try:
            launch("train", {}, tmp_path, Placement(num_nodes=2, rdzv_endpoint=f"localhost:{free_port()}"), {}, ignore)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    while not (tmp_path / "launch.json").exists():
        assert thread.is_alive(), raised
        time.sleep(0.01)
    began = read_launch(tmp_path / "launch.json")
    number = claim(tmp_path / "launch.json", "a-node-of-the-first", 2)
    with pytest.raises(ValueError) as refused:
        launch("train", {}, tmp_path, Placement(num_nodes=2, rdzv_endpoint=f"localhost:{free_port()}"), {}, ignore)
    assert str(refused.value) == (
        f"output_dir must be one launch's own while it is at work, got {tmp_path}, where another one is; take another folder, "
        "or wait for its end"
    )
    assert began is not None and began.id is not None and read_launch(tmp_path / "launch.json") == began
    assert number == 1 and node_file(tmp_path / "launch.json", "a-node-of-the-first", 1).exists()
    thread.join()
    assert "2 nodes must come within 3 s" in str(raised[0])
    # It is free again, and nothing says that it ever was not.
    assert [path.name for path in tmp_path.iterdir() if "lock" in path.name] == []
    with pytest.raises(RuntimeError, match="2 nodes must come within 3 s"):
        launch("train", {}, tmp_path, Placement(num_nodes=2, rdzv_endpoint=f"localhost:{free_port()}"), {}, ignore)
