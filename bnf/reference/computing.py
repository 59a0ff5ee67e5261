"""What a pass computes, and what computes it: its rows, the values of a row by the reference, and the processes that share rows out.

The reference is loaded with the first row, once for groups and dev groups. The same code computes a row in the pass's own process, in
each process that torchrun starts, and in a worker on Ray (`bnf.reference.on_ray`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bnf.data.groups import PromptGroup
from bnf.data.packing import Row, pack, rows_digest
from bnf.model.allocator import keep_freed_memory
from bnf.model.digests import model_digest
from bnf.model.kernels import implementation, in_common
from bnf.model.loading import Numerics, Weights, load_model, numerics
from bnf.model.logps import row_logps
from bnf.model.sharding import load_sharded
from bnf.parallel.group import gather, num_processes, of_first, process_number
from bnf.parallel.placement import Placement
from bnf.reference.ches import ches_scores, pairs_digest
from bnf.reference.index import DevicePass, Identity, Shard, device_pass
from bnf.reference.kl_pairs import kl_pair_rows

# A row's values, under their names in a shard.
Values = dict[str, Tensor]
# took(places of rows that are computed now)
Took = Callable[[Sequence[int]], None]


@dataclass(frozen=True)
class PassRows:
    """The rows of groups, or of dev groups; `pairs` are their KL pairs where the objective needs them."""

    rows: Sequence[Row]
    pairs: Sequence[Row] | None

    @cached_property
    def num_tokens(self) -> list[int]:
        """The tokens of each row, with its KL pairs."""
        return [
            row.num_tokens + (0 if self.pairs is None else self.pairs[place].num_tokens) for place, row in enumerate(self.rows)
        ]


@dataclass(frozen=True)
class Pass:
    """What decides the rows and their values; the fields are arguments of `cache_reference`."""

    model_dir: Path
    groups_dir: Path
    max_tokens_per_row: int
    max_groups_per_row: int | None
    share_prompts: bool
    bf16: bool
    weights: Weights
    load_in_4bit: bool
    attention: str
    entropies: bool
    kl_pairs: bool
    ches: bool
    temperature: float = 1.0

    def rows(self, groups: Sequence[PromptGroup]) -> PassRows:
        """The rows of groups.

        Raises:
            ValueError: a group is longer than a row, or there is one prompt alone and so no KL pair.
        """
        packed = pack(
            groups, self.max_tokens_per_row, max_groups_per_row=self.max_groups_per_row, share_prompts=self.share_prompts
        )
        return PassRows(packed, kl_pair_rows(packed) if self.kl_pairs else None)

    def served_by(self) -> str:
        """The attention implementation of this process."""
        return implementation(self.model_dir, self.attention, bf16=self.bf16)

    def identity(self, rows: PassRows, device: DevicePass) -> Identity:
        """What the values of these rows depend on, where such devices compute them."""
        return Identity(
            rows=rows_digest(rows.rows),
            model=of_first(lambda: model_digest(self.model_dir)),
            max_tokens_per_row=self.max_tokens_per_row,
            share_prompts=self.share_prompts,
            bf16=self.bf16,
            weights=self.weights,
            load_in_4bit=self.load_in_4bit,
            **device,
            entropies=self.entropies,
            mismatched=None if rows.pairs is None else rows_digest(rows.pairs),
            ches=pairs_digest(rows.rows) if self.ches else None,
            temperature=self.temperature,
        )


class Reference:
    """The reference of a pass, loaded when the first row is computed. `attention` is the implementation that serves."""

    def __init__(self, of: Pass, attention: str, placement: Placement) -> None:
        self._of, self._attention, self._placement = of, attention, placement

    def values(self, rows: PassRows, place: int) -> Values:
        """The values of the row at `place`. Where the model is sharded, all processes must call it."""
        bf16, entropies, temperature, row = self._of.bf16, self._of.entropies, self._of.temperature, rows.rows[place]
        with torch.no_grad():
            values = row_logps(
                self._model, row, bf16=bf16, entropies=entropies, hidden_sums=self._of.ches, temperature=temperature
            )
            named = {"logps": values.logps, "log_odds": values.log_odds}
            if values.hidden_sums is not None:
                named |= ches_scores(values.hidden_sums, row.lengths, row.pairs)
            if rows.pairs is not None:
                pairs = row_logps(self._model, rows.pairs[place], bf16=bf16, temperature=temperature)
                named["mismatched_logps"] = pairs.logps
            if values.entropies is not None:
                named["entropies"] = values.entropies
        return {name: value.float().cpu() for name, value in named.items()}

    @cached_property
    def _model(self) -> PreTrainedModel:
        of = self._of
        keep_freed_memory()
        if self._placement.sharding != "none":
            return load_sharded(of.model_dir, self._placement, weights=of.weights, attention=self._attention).eval()
        return load_model(of.model_dir, weights=of.weights, load_in_4bit=of.load_in_4bit, attention=self._attention).eval()


class Computing(Protocol):
    """What computes shards. All that is open of it takes part."""

    @property
    def device(self) -> DevicePass:
        """What the values depend on beside rows and model; the kernels are those that all who take part have."""
        ...

    @property
    def numerics(self) -> Numerics: ...

    def take_threads(self, num_threads: int) -> None:
        """Compute what follows with so many threads."""
        ...

    def shards(self, part: str, rows: PassRows, missing: Sequence[Shard], took: Took) -> Iterator[tuple[Shard, list[Values]]]:
        """Each missing shard with the values of its rows, as they are there.

        Args:
            part: the groups' folder within that of the data set.
        """
        ...

    def close(self) -> None: ...


class Processes:
    """This process alone, or all that torchrun started: each calls the same, and each is given all values."""

    def __init__(self, of: Pass, placement: Placement) -> None:
        self._is_sharded = placement.sharding != "none"
        # One of the processes may lie on a card that can do less.
        self.device = device_pass(in_common(gather(of.served_by())))
        self._reference = Reference(of, self.device["attention"], placement)

    @property
    def numerics(self) -> Numerics:
        return numerics()

    def take_threads(self, num_threads: int) -> None:
        torch.set_num_threads(num_threads)

    def shards(self, part: str, rows: PassRows, missing: Sequence[Shard], took: Took) -> Iterator[tuple[Shard, list[Values]]]:
        # As many shards at once as there are processes: so a kill loses each process's work on as many tokens, whatever their number.
        for start in range(0, len(missing), num_processes()):
            together = missing[start : start + num_processes()]
            places = [place for shard in together for place in range(*shard.rows)]
            own: dict[int, Values] = {}
            for first in range(0, len(places), num_processes()):
                turn = places[first : first + num_processes()]
                mine = turn[process_number()] if process_number() < len(turn) else None
                if mine is not None or self._is_sharded:
                    # Each pass through a sharded model needs all processes: one without a row computes the first again, for nothing.
                    values = self._reference.values(rows, turn[0] if mine is None else mine)
                    own |= {} if mine is None else {mine: values}
                took(turn)
            computed = {place: values for each in gather(own) for place, values in each.items()}
            for shard in together:
                yield shard, [computed[place] for place in range(*shard.rows)]

    def close(self) -> None: ...
