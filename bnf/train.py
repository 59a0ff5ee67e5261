"""Training on its own, without the pipeline.

    python -m bnf.train CONFIG --model DIR --groups DIR --output DIR [--reference DIR [--reference-model DIR]]

CONFIG is a YAML or JSON file with the keys of a recipe's `train` section, or a recipe with that section. Of a recipe, `seed` is read too,
and the sections that are not read are named. Where the objective needs a reference and none is given, the model's own
log-probabilities are cached in OUTPUT/reference first. Groups in the folder's subfolder `dev` are evaluated.

With `num_nodes` above 1 the command runs on the first node, and `python -m bnf.join DIR` on the others; Slurm's other nodes are started by
itself. Where the same command runs on every node (`srun`, an indexed job of Kubernetes), those after the first join.
"""

import argparse
import json
import os
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bnf.objectives import load_objective
from bnf.parallel.join import calls_in, join
from bnf.paths import person_path
from bnf.training.collapse import TrainingCollapsed
from bnf.training.config import TrainConfig
from bnf.training.fields import AUTO

if TYPE_CHECKING:
    # It imports torch.
    from bnf.training.summary import TrainSummary


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Gives 0 when it is done, 1 where the training failed, 2 for a wrong setting or path."""
    parser = argparse.ArgumentParser(prog="python -m bnf.train", description="Train a model on prompt groups.")
    parser.add_argument("config", type=person_path, help="YAML or JSON file with a recipe's train section")
    parser.add_argument("--model", type=person_path, required=True, help="folder of the model to start from")
    parser.add_argument("--groups", type=person_path, required=True, help="folder with groups.safetensors")
    parser.add_argument("--reference", type=person_path, help="folder of cached reference log-probabilities")
    parser.add_argument(
        "--reference-model", type=person_path, help="folder of the model they are of, where that is not --model"
    )
    parser.add_argument("--output", type=person_path, required=True, help="folder to write to; resumes what is there")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(arguments)
    # Torch reads it when it is imported, below. Threads that spin while they wait cost several times the work where a core is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        config = TrainConfig.from_dict(_read_config(options.config))
        if config.num_nodes > 1 and config.placement.node_number() > 0:
            return _join(options.output)
        summary = run(
            config,
            options.model,
            options.groups,
            options.reference,
            options.output,
            reference_model_dir=options.reference_model,
        )
        print(json.dumps(summary.to_json(), indent=1))
    except KeyboardInterrupt:
        # A shell expects 128 and the signal's number.
        return _failed("stopped; the same command goes on from the last checkpoint", 130, options.debug)
    except (ValueError, OSError) as error:
        return _failed(f"error: {error}", 2, options.debug)
    except TrainingCollapsed as error:
        return _failed(f"error: {error}", 1, options.debug)
    except Exception as error:
        return _failed(f"error: {type(error).__name__}: {error}; --debug shows where", 1, options.debug)
    return 0


def _join(output_dir: Path) -> int:
    """Joins the training that the first node launches; where it is done already, there is none to wait for."""
    from bnf.training.summary import SUMMARY_FILE

    return 0 if (output_dir / SUMMARY_FILE).is_file() else join(lambda: calls_in([output_dir]))


def _failed(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(message, file=sys.stderr)
    return code


def run(
    config: TrainConfig,
    model_dir: Path,
    groups_dir: Path,
    reference_dir: Path | None,
    output_dir: Path,
    *,
    reference_model_dir: Path | None = None,
) -> "TrainSummary":
    """Caches the reference where it is needed and not given, and trains; returns the summary."""
    from bnf.data.groups import DEV
    from bnf.data.longest import longest_sequence
    from bnf.reference.index import INDEX_FILE
    from bnf.training.budget import find_budget
    from bnf.training.checks import check_groups_dir, check_lengths, check_machine, check_model_dir
    from bnf.training.launch import launch
    from bnf.training.own_reference import OLD, is_of, launch_cache_for
    from bnf.training.preparation import Folders
    from bnf.training.trainer import train

    # What training would refuse is refused before the pass, not after it.
    evaluates = (groups_dir / DEV).is_dir()
    if not evaluates:
        config.check_unevaluated()
    check_machine(config)
    check_model_dir(config, model_dir, evaluates=evaluates)
    check_groups_dir(config, groups_dir)
    check_lengths(model_dir, longest_sequence(groups_dir))
    if config.max_tokens_per_row == AUTO:
        found = find_budget(config, model_dir, groups_dir, output_dir / "budget", _Printer("budget"))
        config = replace(config, max_tokens_per_row=found)
    objective = load_objective(config.objective, config.objective_options)
    if reference_dir is None and objective.needs_cache:
        reference_dir = output_dir / "reference"
        launch_cache_for(config, reference_model_dir or model_dir, groups_dir, reference_dir, _Printer("reference"))
    old_dir = None
    if objective.needs_old and reference_model_dir is not None:
        old_dir = output_dir / "old"
        launch_cache_for(config, model_dir, groups_dir, old_dir, _Printer("old"), OLD)
    cached = reference_dir if reference_dir is not None and (reference_dir / INDEX_FILE).is_file() else None
    same_weights = cached is not None and is_of(cached, model_dir)
    if objective.needs_old and reference_model_dir is None and cached is not None and not same_weights:
        # Its values would count as those of the policy that sampled: wrong ratios, and nothing would say so.
        raise ValueError(
            f"reference_model must be given for objective {config.objective!r} where the reference isn't {model_dir}'s own, "
            f"got {cached} alone; add --reference-model, and {model_dir}'s own log-probabilities are cached too"
        )
    folders = Folders(model_dir, groups_dir, reference_dir, output_dir, reference_model_dir, old_dir)
    begin = launch if config.is_launched else train
    return begin(config, folders, step0_check=same_weights, progress=_Printer("train"))


class _Printer:
    """Progress on stderr, a line a second at most."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.last = 0.0

    def __call__(self, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if now - self.last >= 1 or done == total:
            self.last = now
            print(f"{self.stage}: {done} of {total} {note}", file=sys.stderr, flush=True)


def _read_config(path: Path) -> dict[str, object]:
    """The settings of a file.

    Raises:
        FileNotFoundError: the file isn't there.
        ValueError: it can't be read, holds no mapping, or holds a key twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"config must be a YAML or JSON file, got {path}; write the train section of a recipe into one")
    if path.suffix == ".json":
        values = _read_json(path)
    else:
        from bnf.plain_yaml import read

        values = read(path.read_bytes(), "config")
    values = _mapping({} if values is None else values, str(path))
    if "train" not in values:
        return values
    section = _mapping(values["train"], f"train in {path}")
    if "seed" in values:
        if "seed" in section:
            raise ValueError("seed must be given once, got it in train and beside it; remove one")
        section["seed"] = values["seed"]
    if unread := [key for key in values if key not in ("train", "seed")]:
        print(f"config: of {path} train and seed are read, and not {', '.join(unread)}", file=sys.stderr)
    return section


def _mapping(values: object, what: str) -> dict[str, object]:
    if not isinstance(values, dict):
        raise ValueError(
            f"config must be a mapping of settings, got {type(values).__name__} in {what}; write one `key: value` a line"
        )
    return values


def _read_json(path: Path) -> object:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        values: dict[str, object] = {}
        for key, value in pairs:
            if key in values:
                raise ValueError(f"{key} must be given once, got it twice; remove one")
            values[key] = value
        return values

    try:
        return json.loads(path.read_bytes(), object_pairs_hook=once)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"config must be JSON, got {path}: {error}; correct it") from error


if __name__ == "__main__":
    sys.exit(main())
