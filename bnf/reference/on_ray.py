"""The reference pass on Ray: workers, one per GPU or without GPUs one per node, compute whole shards; the pass's process writes them."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from platform import node

import torch

from bnf.data.groups import read_groups
from bnf.model.device import device_kind
from bnf.model.kernels import in_common
from bnf.model.loading import Numerics, numerics
from bnf.parallel.node_folders import NODE_FOLDER, NodeFolder
from bnf.parallel.placement import Placement
from bnf.parallel.ray_workers import RayWorker, connect, start_workers
from bnf.parallel.share import WorkerEnded, end_all, share_out
from bnf.reference.computing import Pass, PassRows, Reference, Took, Values
from bnf.reference.index import DevicePass, Identity, Shard, device_pass

_Row = tuple[int, Values]


@dataclass(frozen=True)
class About:
    """With what a worker computes."""

    device: DevicePass
    numerics: Numerics


@dataclass(frozen=True)
class Asked:
    """What a worker is asked for: rows of a part of the data, (first, one past the last)."""

    part: str
    rows: tuple[int, int]
    # Of the whole part, as the pass's process sees it, with the kernels that all workers have.
    identity: Identity
    num_threads: int | None


class OpenReference:
    """What a worker holds: the pass's rows and its reference. It replies with rows and their values.

    Raises:
        ValueError: a folder holds something else on the worker's node.
    """

    def __init__(self, of: Pass) -> None:
        self._of, self._parts = of, dict[str, PassRows]()
        self._reference: Reference | None = None
        self.about = About(device_pass(of.served_by()), numerics())

    def __call__(self, message: Asked) -> Iterator[_Row]:
        if message.num_threads is not None:
            # In the thread that computes: libraries count by thread.
            torch.set_num_threads(message.num_threads)
        rows = self._rows(message)
        if self._reference is None:
            self._reference = Reference(self._of, message.identity.attention, Placement())
        for place in range(*message.rows):
            yield place, self._reference.values(rows, place)

    def close(self) -> None: ...

    def _rows(self, asked: Asked) -> PassRows:
        if asked.part not in self._parts:
            folder = self._of.groups_dir / asked.part
            rows = self._of.rows(read_groups(folder))
            wanted = asked.identity
            own = self._of.identity(rows, {"head_logits": self.about.device["head_logits"], "attention": wanted.attention})
            if other := [one.name for one in fields(own) if getattr(own, one.name) != getattr(wanted, one.name)]:
                raise ValueError(
                    f"model and groups must be the same on every node, got another {' and '.join(other)} on {node()} in "
                    f"{self._of.model_dir} or {folder}; mount the same folders there"
                )
            self._parts[asked.part] = rows
        return self._parts[asked.part]


def _open_on_node(asked: tuple[NodeFolder, Pass]) -> OpenReference:
    """On a node, which has the folders where the function says.

    Raises:
        ValueError: one of them isn't there.
    """
    folder, of = asked
    return OpenReference(replace(of, model_dir=Path(folder(str(of.model_dir))), groups_dir=Path(folder(str(of.groups_dir)))))


class RayPass:
    """Workers on Ray as what computes a pass's shards. One that ends costs its shard alone.

    Args:
        most: how many workers have something to do.

    Raises:
        ValueError: Ray isn't there (`connect`), a worker sees other files, or has another kind of device than this machine.
        WorkerEnded: no worker is left.
    """

    def __init__(self, of: Pass, address: str, most: int) -> None:
        self._of, self._threads = of, None
        self._workers = _start(of, address, most)
        try:
            self._about = self._open()
        except BaseException:
            self.close()
            raise
        kernels = in_common([about.device["attention"] for about in self._about])
        self.device: DevicePass = {"head_logits": self._about[0].device["head_logits"], "attention": kernels}
        self.numerics = self._about[0].numerics

    def take_threads(self, num_threads: int) -> None:
        self.numerics = replace(self.numerics, num_threads=num_threads)

    def shards(self, part: str, rows: PassRows, missing: Sequence[Shard], took: Took) -> Iterator[tuple[Shard, list[Values]]]:
        identity = self._of.identity(rows, self.device)

        def work(worker: RayWorker[Asked, _Row, About], shard: Shard) -> Iterator[tuple[Shard, _Row]]:
            for row in worker.ask(Asked(part, shard.rows, identity, self.numerics.num_threads)):
                yield shard, row

        open_: dict[Shard, dict[int, Values]] = {shard: {} for shard in missing}
        with closing(share_out(self._workers, missing, work)) as replies:
            for shard, (place, values) in replies:
                # Where a worker has ended, another one computes the whole shard.
                if shard not in open_ or place in open_[shard]:
                    continue
                open_[shard][place] = values
                took([place])
                if len(open_[shard]) == len(range(*shard.rows)):
                    found = open_.pop(shard)
                    yield shard, [found[place] for place in range(*shard.rows)]

    def close(self) -> None:
        end_all(worker.end for worker in self._workers)

    def _open(self) -> list[About]:
        """What the workers say, once they are open. One that ends is left out."""
        found, ended = [], None
        for worker in [*self._workers]:
            try:
                found.append(worker.about())
            except WorkerEnded as error:
                print(f"{error}; the others do without it", file=sys.stderr, flush=True)
                self._workers.remove(worker)
                ended = error
        if not found:
            assert ended is not None
            raise ended
        here = device_kind()
        if other := next((about.numerics for about in found if (about.numerics.num_threads is None) != (here == "cuda")), None):
            raise ValueError(
                f"ray.address must lead to nodes that compute on {here}, as this machine trains there, got {other.device}; start the run "
                "on a node of the cluster that is like the others, or set ray.address to none"
            )
        if len(devices := {about.numerics.device for about in found}) > 1:
            # A training on one of them sees the difference at its first step.
            print(f"the workers compute on {' and '.join(sorted(devices))}: last bits differ", file=sys.stderr, flush=True)
        return found


def _start(of: Pass, address: str, most: int) -> list[RayWorker[Asked, _Row, About]]:
    cluster = connect(address)
    # A worker's own folder is another one.
    opening = NODE_FOLDER.get(), replace(of, model_dir=of.model_dir.absolute(), groups_dir=of.groups_dir.absolute())
    if cluster.num_gpus:
        return start_workers(min(most, cluster.num_gpus), _open_on_node, opening, num_gpus=1, num_cpus=0, variables={})
    count = min(most, sum(machine.num_cpus > 0 for machine in cluster.machines))
    if not count:
        raise ValueError(
            f"ray.address must lead to nodes that have GPUs or cores, got none at {address}; start Ray on one that has some"
        )
    return start_workers(count, _open_on_node, opening, num_gpus=0, num_cpus=cluster.cores_each(count), variables={})
