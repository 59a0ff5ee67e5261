"""How a reference pass shares its shards out over workers. These are in this process; `tests/integration/test_rows_on_ray.py` has Ray's."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bnf.data.groups import DEV, write_groups
from bnf.parallel.node_folders import same_path
from bnf.parallel.placement import Placement
from bnf.parallel.share import WorkerEnded
from bnf.reference import cache, computing, on_ray
from bnf.reference.index import read_index, reference_numerics
from bnf.reference.launch import ReferenceCall
from bnf.reference.on_ray import About, Asked
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.training import ignore


class HereWorker:
    """A worker of this process. It ends, and stays away, after so many rows."""

    def __init__(self, of: computing.Pass, ends_after: int | None = None) -> None:
        self.server, self.ends_after = on_ray._open_on_node((same_path, of)), ends_after
        self.asked: list[Asked] = []
        self.is_open, self.says = True, self.server.about

    def ready(self, until: Callable[[], bool]) -> bool:
        if not self.is_open:
            raise WorkerEnded("a worker ended")
        return not until()

    def about(self) -> About:
        self.ready(lambda: False)
        return self.says

    def ask(self, asked: Asked) -> Iterator[on_ray._Row]:
        self.asked.append(asked)
        for row in self.server(asked):
            if self.ends_after == 0:
                self.is_open = False
                raise WorkerEnded("a worker ended")
            self.ends_after = None if self.ends_after is None else self.ends_after - 1
            yield row

    def end(self) -> None:
        self.is_open = False


Workers = Callable[[computing.Pass], list[HereWorker]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[[Workers], list[HereWorker]]:
    """Has passes start the workers that a function makes; gives the list of them, with those of the last pass."""
    monkeypatch.setattr(cache, "_SHARD_TOKENS", 128)

    def start(workers: Workers) -> list[HereWorker]:
        all_of_them: list[HereWorker] = []

        def begin(of: computing.Pass, address: str, most: int) -> list[HereWorker]:
            assert address == "local"
            all_of_them[:] = workers(of)[:most]
            return [*all_of_them]

        monkeypatch.setattr(on_ray, "_start", begin)
        return all_of_them

    return start


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("groups")
    write_groups(folder, random_groups(41))
    write_groups(folder / DEV, random_groups(5, seed=1))
    return folder


@pytest.fixture
def call(workplace: Path, data: Path, tmp_path: Path) -> ReferenceCall:
    return ReferenceCall(
        workplace / "model",
        data,
        tmp_path / "on_ray",
        max_tokens_per_row=48,
        max_groups_per_row=None,
        share_prompts=True,
        bf16=True,
        kl_pairs=True,
        ches=True,
        entropies=True,
        placement=Placement(),
        ray="local",
    )


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_workers_compute_the_bytes_of_one_process_though_one_ends(
    call: ReferenceCall, started: Callable[[Workers], list[HereWorker]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    workers = started(lambda of: [HereWorker(of, ends_after=2), HereWorker(of)])
    reported: list[tuple[int, int, str]] = []
    index = call.launch(lambda *said: reported.append(said))
    replace(call, output_dir=tmp_path / "one", ray=None).launch(ignore)
    assert len(index.shards) >= 3 and content(tmp_path / "on_ray") == content(tmp_path / "one")
    assert "a worker ended; " in capfd.readouterr().err
    # Each row counts once, also where its shard was computed again.
    steps = [done for done, _, note in reported if note == "tokens"]
    assert steps == sorted(set(steps)) and reported[-1] == (index.num_tokens, index.num_tokens, "tokens")
    assert reported[0][2] == "dev: tokens" and not any(worker.is_open for worker in workers)


def test_groups_and_dev_groups_share_a_model_and_few_shards_few_workers(
    call: ReferenceCall, started: Callable[[Workers], list[HereWorker]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, load = [], computing.load_model
    monkeypatch.setattr(computing, "load_model", lambda *args, **given: loaded.append(1) or load(*args, **given))
    replace(call, ray=None, output_dir=tmp_path / "one").launch(ignore)
    assert len(loaded) == 1
    monkeypatch.setattr(cache, "_SHARD_TOKENS", 10**6)
    workers = started(lambda of: [HereWorker(of) for _ in range(8)])
    call.launch(ignore)
    assert len(workers) == 1 and len(loaded) == 2


def test_a_pass_goes_on_with_as_many_threads_as_it_began_with(
    call: ReferenceCall, started: Callable[[Workers], list[HereWorker]]
) -> None:
    workers = started(lambda of: [HereWorker(of)])
    call.launch(ignore)
    whole, threads = content(call.output_dir), torch.get_num_threads()
    assert {asked.num_threads for asked in workers[0].asked} == {threads}
    for name in ("index.json", "reference-00001.safetensors"):
        (call.output_dir / name).unlink()
    noted = reference_numerics(call.output_dir)
    assert noted is not None
    cache.write_json(call.output_dir / "numerics.json", (replace(noted, num_threads=threads + 1)).to_json(), indent=1)
    try:
        call.launch(ignore)
        assert [asked.num_threads for asked in workers[0].asked] == [threads + 1]
        again = content(call.output_dir)
        assert again.keys() == whole.keys()
        # What was there stays; the shard that was computed anew may differ in last bits.
        computed = {"numerics.json", "reference-00001.safetensors"}
        assert {name: again[name] for name in again.keys() - computed} == {
            name: whole[name] for name in whole.keys() - computed
        }
    finally:
        torch.set_num_threads(threads)


def test_all_workers_take_the_kernels_that_all_have(
    call: ReferenceCall, started: Callable[[Workers], list[HereWorker]], capfd: pytest.CaptureFixture[str]
) -> None:
    def workers(of: computing.Pass) -> list[HereWorker]:
        made = [HereWorker(of), HereWorker(of), HereWorker(of)]
        for worker, kernels, device in zip(
            made, ("varlen_flex", "flex", "flex"), ("CPU one", "CPU two", "CPU two"), strict=True
        ):
            says = worker.says
            worker.says = About({**says.device, "attention": f"bnf_segments_{kernels}"}, replace(says.numerics, device=device))
        made[2].is_open = False
        return made

    made = started(workers)
    # No other device is here to compute with; the name reaches those that would.
    assert call.launch(ignore).identity.attention == "bnf_segments_flex"
    assert {asked.identity.attention for worker in made for asked in worker.asked} == {"bnf_segments_flex"}
    said = capfd.readouterr().err
    assert "the others do without it" in said and "the workers compute on CPU one and CPU two: last bits differ" in said


def test_workers_of_another_kind_of_device_are_refused(
    call: ReferenceCall, started: Callable[[Workers], list[HereWorker]], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = started(lambda of: [HereWorker(of), HereWorker(of)])
    monkeypatch.setattr(on_ray, "device_kind", lambda: "cuda")
    with pytest.raises(ValueError, match=r"ray\.address must lead to nodes that compute on cuda, .* got CPU"):
        call.launch(ignore)
    assert len(workers) == 2 and not any(worker.is_open for worker in workers)


def test_a_node_with_other_files_is_refused(
    call: ReferenceCall, started: Callable[[Workers], list[HereWorker]], tmp_path: Path
) -> None:
    write_groups(tmp_path / "other", random_groups(9, seed=5))
    write_groups(tmp_path / "other" / DEV, random_groups(5, seed=1))
    started(lambda of: [HereWorker(replace(of, groups_dir=tmp_path / "other"))])
    call = replace(call, ches=False)
    with pytest.raises(
        ValueError, match=r"model and groups must be the same on every node, got another rows and mismatched on"
    ):
        call.launch(ignore)
    # Dev groups are the same there.
    assert read_index(call.output_dir / DEV) and not (call.output_dir / "index.json").exists()
    started(lambda of: [HereWorker(replace(of, model_dir=tmp_path / "nowhere"))])
    with pytest.raises(ValueError, match=r"the folder must be on every node under the same path, got .*nowhere, which isn't"):
        call.launch(ignore)


def test_a_sharded_model_stays_with_its_processes(
    call: ReferenceCall, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launched, run = [], []
    monkeypatch.setattr("bnf.reference.launch.launch", lambda kind, told, *rest: launched.append(told))
    monkeypatch.setattr("bnf.reference.launch.read_index", lambda folder: None)
    monkeypatch.setattr(ReferenceCall, "run", lambda call, progress: run.append(call))
    replace(call, placement=Placement(2, sharding="full")).launch(ignore)
    assert not run and launched[0]["reference"]["ray"] is None
    assert "sharded (full): its processes compute, and not Ray" in capsys.readouterr().err
    replace(call, placement=Placement(2, 2)).launch(ignore)
    assert len(launched) == 1 and (run[0].ray, run[0].placement) == ("local", Placement())
