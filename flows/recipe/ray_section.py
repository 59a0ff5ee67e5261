"""The section of a recipe that says where Ray is."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from flows.recipe.messages import as_written
from flows.recipe.section import Section

_ADDRESS = re.compile(r"^(none|local|auto|ray://[^/\s:]+:\d+)$")


def _address(value: object) -> object:
    """A Ray address that is one; what people write instead is told what to write."""
    text = str(value)
    if isinstance(value, str) and _ADDRESS.fullmatch(value):
        return value
    if isinstance(value, str) and text.lower() in ("none", "local", "auto"):
        remedy = f"write {text.lower()}"
    elif re.fullmatch(r"ray://[^/\s:]+/?", text):
        remedy = f"add the port of its client server, which is 10001 unless it was started otherwise: {text.rstrip('/')}:10001"
    elif "://" in text:
        remedy = "write ray://HOST:PORT with the port of its client server, 10001 unless it was started otherwise"
    elif re.fullmatch(r"[^/\s:]+:\d+", text):
        host = text.partition(":")[0]
        remedy = (
            f"on a machine of that cluster write auto (the variable RAY_ADDRESS={text} says which one), else ray://{host}:10001, the port "
            "of its client server"
        )
    else:
        remedy = "write none to do without Ray, or local for this machine alone"
    raise ValueError(f"must be none, local, auto or ray://HOST:PORT, got {as_written(value)}; {remedy}")


class RayCluster(Section):
    """Ray: what shares a stage's work out over processes and nodes. The Prefect task stays one for each stage."""

    address: Annotated[str, BeforeValidator(_address)] = Field(
        "none",
        json_schema_extra={"pattern": _ADDRESS.pattern},
        description=(
            "`none`; `local`: this machine alone; `auto`: the cluster of which this machine is a node; `ray://HOST:PORT`: a cluster "
            "elsewhere"
        ),
    )
