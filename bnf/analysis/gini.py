"""How unevenly a training moved the log-probabilities of the tokens: Gini's coefficient of what is cached of both models.

Nothing is computed by a model. It is no part of `token_shifts`, which the report reads: that would give every report another key.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open

from bnf.data.token_ids import Array

_INDEX = "index.json"


def gini(values: Array) -> float | None:
    """Gini's coefficient of the absolute values: 0 where all are equal, (n − 1) / n where one of n is all there is.

    With x the n absolute values in rising order it is Σ (2i − n − 1)·x_i / (n·Σ x_i). None without values, and where all are 0.
    """
    ordered = np.sort(np.abs(values.astype(np.float64)))
    total = float(ordered.sum())
    if total == 0:
        return None
    number = len(ordered)
    ranks = 2 * np.arange(1, number + 1) - number - 1
    return float((ranks * ordered).sum() / (number * total))


def gini_of_token_shifts(reference_dir: Path, policy_logps_dir: Path) -> float | None:
    """The coefficient of the shifts of all completion tokens of the training data, in nats, policy minus reference.

    None where the values aren't on this machine, or are of other rows than one another's.
    """
    folders = (reference_dir, policy_logps_dir)
    if not all((folder / _INDEX).is_file() for folder in folders):
        return None
    # The index as it stands: the modules that know it load transformers.
    indices = [json.loads((folder / _INDEX).read_text()) for folder in folders]
    files = [[folder / shard["file"] for shard in index["shards"]] for folder, index in zip(folders, indices, strict=True)]
    if indices[0]["rows"] != indices[1]["rows"] or not all(path.is_file() for of_model in files for path in of_model):
        return None
    reference, policy = (np.concatenate([_logps(path) for path in of_model]) for of_model in files)
    return gini(policy.astype(np.float64) - reference)


def _logps(path: Path) -> Array:
    with safe_open(path, framework="np") as file:
        values: Array = file.get_tensor("logps")
    return values
