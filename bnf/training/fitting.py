"""What to change in a training that doesn't fit into memory: settings that help, each tried by the estimate."""

from collections.abc import Mapping
from dataclasses import replace

from bnf.model.shapes import ModelShape
from bnf.training.config import TrainConfig
from bnf.training.fields import AUTO
from bnf.training.memory import estimate
from bnf.training.row_memory import Device, RowSizes

_Settings = Mapping[str, object]


def remedies(
    shape: ModelShape, config: TrainConfig, row: RowSizes, device: Device, limit: float, *, processes_share: bool = False
) -> str:
    """Settings with which the training would fit into `limit` bytes of a device, in words: each that suffices alone, or those that
    suffice together.

    `processes_share` says that the processes of a node have the memory together, as on a CPU.
    """

    def fits(settings: _Settings) -> bool:
        try:
            changed = replace(config, **settings)  # type: ignore[arg-type]
        except ValueError:
            # Together with the other settings it isn't allowed.
            return False
        tokens = row.tokens if changed.max_tokens_per_row == AUTO else min(row.tokens, changed.row_tokens)
        needed = estimate(shape, changed, replace(row, tokens=tokens), device).device.total
        return needed * (changed.nproc_per_node if processes_share else 1) <= limit

    steps = _changes(config, row)
    alone = [settings for settings in steps if fits(settings)]
    # Where adapters suffice, adapters on 4 bits are no other remedy.
    alone = [settings for settings in alone if not any(other.items() < settings.items() for other in alone)]
    if alone:
        # Of several lengths of a row the longest.
        rows = [settings for settings in alone if "max_tokens_per_row" in settings]
        return f"set {' or '.join(_words(settings) for settings in alone if settings not in rows[1:])}"
    together: dict[str, object] = {}
    for settings in steps:
        together |= settings
        if fits(together):
            return f"set {_words(together)}"
    return "take a smaller model, or more devices"


def _words(settings: _Settings) -> str:
    return " and ".join(f"train.{name}={str(value).lower()}" for name, value in settings.items())


def _changes(config: TrainConfig, row: RowSizes) -> list[_Settings]:
    """Settings to try, in the order in which they cost least."""
    steps: list[_Settings] = []
    if config.num_processes > 1 and not config.sharded:
        steps.append({"sharding": "full"})
    if not config.gradient_checkpointing:
        steps.append({"gradient_checkpointing": True})
    lower = row.tokens // 2
    while config.max_tokens_per_row != AUTO and lower >= row.prompt + sum(row.completions):
        steps.append({"max_tokens_per_row": lower})
        lower //= 2
    if config.sharded and not config.cpu_offload:
        steps.append({"cpu_offload": True})
    adapters = {} if config.lora_r else {"lora_r": 16}
    if adapters:
        steps.append(adapters)
    if not config.load_in_4bit:
        steps.append({**adapters, "load_in_4bit": True})
    return steps
