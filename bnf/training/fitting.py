"""What to change in a training that doesn't fit into memory: settings that help, each tried by the estimate."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from bnf.model.shapes import ModelShape
from bnf.training.config import TrainConfig
from bnf.training.fields import AUTO
from bnf.training.memory import estimate
from bnf.training.row_memory import Device, RowSizes

_Settings = Mapping[str, object]


def remedies(
    shape: ModelShape,
    config: TrainConfig,
    row: RowSizes,
    device: Device,
    limit: float,
    *,
    longest: int | None = None,
    processes_share: bool = False,
) -> str:
    """Settings with which the training would fit into `limit` bytes of a device, in words: each that suffices alone, or those that
    suffice together.

    No row is named that is shorter than `longest`, the tokens of the longest group; None takes the mean group of `row`.
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

    steps = _changes(config, row, row.prompt + sum(row.completions) if longest is None else longest)
    alone = [settings for settings in steps if len(settings) == 1 and fits(settings)]
    if alone:
        # Of several lengths of a row the longest.
        rows = [settings for settings in alone if "max_tokens_per_row" in settings]
        return f"set {' or '.join(_words(settings) for settings in alone if settings not in rows[1:])}"
    together: dict[str, object] = {}
    for settings in steps:
        together |= settings
        if fits(together):
            return f"set {_words(_needed(together, fits))}"
    return "take a smaller model, or more devices"


def _needed(together: _Settings, fits: Callable[[_Settings], bool]) -> _Settings:
    """Of settings that fit together those that are needed. What costs more is left out first."""
    for name in reversed(list(together)):
        fewer = {other: value for other, value in together.items() if other != name}
        if fits(fewer):
            together = fewer
    return together


def _words(settings: _Settings) -> str:
    return " and ".join(f"train.{name}={str(value).lower()}" for name, value in settings.items())


def _changes(config: TrainConfig, row: RowSizes, longest: int) -> list[_Settings]:
    """Settings to try, in the order in which they cost least."""
    steps: list[_Settings] = []
    if config.num_processes > 1 and not config.sharded:
        steps.append({"sharding": "full"})
    if not config.gradient_checkpointing:
        steps.append({"gradient_checkpointing": True})
    lower = row.tokens // 2
    while config.max_tokens_per_row != AUTO and lower >= longest:
        steps.append({"max_tokens_per_row": lower})
        lower //= 2
    if config.weights == "fp32" and config.bf16:
        steps.append({"weights": "bf16"})
    if config.sharded and not config.cpu_offload:
        steps.append({"cpu_offload": True})
    adapters = {} if config.lora_r else {"lora_r": 16}
    if adapters:
        steps.append(adapters)
    if not config.load_in_4bit:
        steps.append({**adapters, "load_in_4bit": True})
    return steps
