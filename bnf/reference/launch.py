"""The reference pass in several processes: `bnf.parallel.launch` starts them, and each calls `cache_reference`; or on Ray's workers."""

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bnf.model.loading import Weights
from bnf.parallel.launch import launch
from bnf.parallel.placement import Placement
from bnf.progress import Progress
from bnf.reference.cache import cache_reference
from bnf.reference.index import ReferenceIndex, read_index

# Errors that a process reports by name and message.
_REPORTED: dict[str, type[Exception]] = {"ValueError": ValueError, "FileNotFoundError": FileNotFoundError}


@dataclass(frozen=True)
class ReferenceCall:
    """The arguments of a reference pass for `cache_reference`, and what its processes are told: `launch.json`."""

    model_dir: Path
    groups_dir: Path
    output_dir: Path
    max_tokens_per_row: int
    max_groups_per_row: int | None
    share_prompts: bool
    bf16: bool
    kl_pairs: bool
    placement: Placement
    weights: Weights = "fp32"
    load_in_4bit: bool = False
    attention: str = "auto"
    entropies: bool = False
    temperature: float = 1.0
    ches: bool = False
    ray: str | None = None

    @classmethod
    def from_json(cls, text: str) -> "ReferenceCall":
        """The call that a file's text holds."""
        found = json.loads(text)["reference"]
        model_dir, groups_dir, output_dir = (Path(found.pop(name)) for name in ("model_dir", "groups_dir", "output_dir"))
        return cls(model_dir, groups_dir, output_dir, placement=Placement(**found.pop("placement")), **found)

    def to_json(self) -> dict[str, object]:
        """The call as launch.json holds it."""
        return {"reference": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}}

    def run(self, progress: Progress) -> ReferenceIndex:
        """The pass in this process, or as one of the processes that torchrun started."""
        return cache_reference(**vars(self), progress=progress)

    def launch(self, progress: Progress) -> ReferenceIndex:
        """The pass on Ray where there is an address, else where `placement` says. On several nodes all must see the folders under the
        same paths. A sharded model needs processes that work on one row together, which Ray's workers don't: torchrun starts them.

        Raises:
            ValueError, FileNotFoundError: as `cache_reference`; ValueError where the nodes have nowhere to meet.
            RuntimeError: a process failed otherwise, or a node did not come or went away.
        """
        if self.ray is not None and self.placement.sharding == "none":
            return replace(self, placement=Placement()).run(progress)
        if self.ray is not None:
            print(
                f"the model is sharded ({self.placement.sharding}): its processes compute, and not Ray",
                file=sys.stderr,
                flush=True,
            )
            return replace(self, ray=None).launch(progress)
        if not self.placement.is_launched:
            return self.run(progress)
        launch("reference", self.to_json(), self.output_dir, self.placement, _REPORTED, progress)
        return read_index(self.output_dir)
