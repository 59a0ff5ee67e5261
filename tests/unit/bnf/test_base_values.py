"""The base model's cached values under a reference of the recipe's choice: they are checked before the first step, as `old` is, and
computed again where they don't fit. So are the kernels of attention.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from bnf.data.groups import write_groups
from bnf.model.logps import row_logps
from bnf.reference.cache import cache_reference
from bnf.reference.index import INDEX_FILE, read_index
from bnf.training import own_reference, trainer
from bnf.training.config import TrainConfig
from bnf.training.own_reference import Mismatch, ReferenceMismatch, noted_mismatch
from bnf.training.preparation import Folders, Prepared, prepare
from bnf.training.trainer import train
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.training import BASE, ignore, metrics, same, weights

SETTINGS: dict[str, Any] = {"max_tokens_per_row": 48, "bf16": False, "progress": ignore}
# Implementations of attention on a card.
FLEX, VARLEN = "bnf_segments_flex", "bnf_segments_varlen_flex"
# trains(output, …) → train_summary.json
Trains = Callable[..., dict[str, Any]]


@pytest.fixture
def place(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """Groups, a reference that is another model, and the base model's values."""
    write_groups(tmp_path / "groups", random_groups(12))
    other = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    for file in tiny_model_dir.glob("tokenizer*"):
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    cache_reference(tmp_path / "other", tmp_path / "groups", tmp_path / "reference", **SETTINGS, kl_pairs=True)
    cache_reference(tiny_model_dir, tmp_path / "groups", tmp_path / "base", **SETTINGS)
    return tmp_path


def folders_of(place: Path, model_dir: Path, output: str, **others: Path) -> Folders:
    given = {"reference_model_dir": place / "other", "base_dir": place / "base"} | others
    return Folders(model_dir, place / "groups", place / "reference", place / output, **given)


@pytest.fixture
def trains(place: Path, tiny_model_dir: Path) -> Trains:
    def begin(
        output: str, start: Path = tiny_model_dir, others: dict[str, Path] | None = None, **settings: Any
    ) -> dict[str, Any]:
        config = TrainConfig(**(BASE | {"max_steps": 1} | settings))
        folders = folders_of(place, start, output, **(others or {}))
        return train(config, folders, step0_check=False, progress=ignore).to_json()

    return begin


def corrupt(folder: Path) -> None:
    """Half of the values higher and half lower, so that their mean says nothing."""
    shard = folder / "reference-00000.safetensors"
    with safe_open(shard, framework="pt") as file:
        metadata, values = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    signs = torch.ones_like(values["logps"])
    signs[::2] = -1
    save_file({**values, "logps": values["logps"] + 1e-3 * signs}, shard, metadata=metadata)


def made_by(folder: Path, **changes: Any) -> None:
    """The index as another card would have written it."""
    index = json.loads((folder / INDEX_FILE).read_text())
    (folder / INDEX_FILE).write_text(json.dumps({**index, **changes}))


@pytest.mark.parametrize("objective", ["bnf", "dpo"])
def test_values_that_are_not_the_base_models_are_refused_and_then_computed(objective: str, place: Path, trains: Trains) -> None:
    there = trains("there", objective=objective)
    assert "base_mismatch" not in there and "base_made_elsewhere" not in there
    corrupt(place / "base")
    with pytest.raises(ReferenceMismatch) as caught:
        trains("here", objective=objective)
    said = str(caught.value)
    assert said.startswith("the mean ratio at step 0 must be 1 within 1e-06, got 0.99") and "policy and base differ" in said
    assert said.endswith("; started again, training computes the values of base itself") and caught.value.of == "base"
    assert noted_mismatch(place / "here", "base") == Mismatch(caught.value.mean_weight)
    summary = trains("here", objective=objective)
    assert summary["base_mismatch"] == pytest.approx((1 + math.exp(-1e-3)) / 2, abs=1e-4)
    assert summary["reference_mismatch"] is None
    assert same(weights(place / "here"), weights(place / "there"))
    shifts = [line["logps_shift/chosen"] for name in ("there", "here") for line in metrics(place / name)[:1]]
    assert shifts == [0, 0]
    assert not list((place / "here").glob("*base*")), "neither values nor the note"


def test_values_of_its_own_that_differ_still_end_the_training(trains: Trains, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnf.training.identity.IdentityCheck.mean_weight", lambda self: 0.9)
    with pytest.raises(ReferenceMismatch):
        trains("out")
    with pytest.raises(ValueError, match="computed these values itself, so one of its two passes is wrong") as caught:
        trains("out")
    assert not isinstance(caught.value, ReferenceMismatch)


def test_a_cache_of_another_model_or_temperature_says_what_differs(place: Path, tiny_model_dir: Path, trains: Trains) -> None:
    cache_reference(tiny_model_dir, place / "groups", place / "hot", **SETTINGS, temperature=2.0)
    cache_reference(place / "other", place / "groups", place / "both", **SETTINGS, temperature=2.0)
    for name, other in (
        ("reference", "of other weights"),
        ("hot", "at temperature 2"),
        ("both", "of other weights and at temperature 2"),
    ):
        with pytest.raises(
            ValueError, match=f"base_dir must be of the base model, .*, got .*/{name}, which is {other}; cache that"
        ):
            trains("out", others={"base_dir": place / name})


def test_a_later_round_does_not_start_from_the_base_model_and_is_not_compared(
    place: Path, tiny_model_dir: Path, trains: Trains
) -> None:
    trains("round1")
    corrupt(place / "base")
    later = {"base_model_dir": tiny_model_dir}
    summary = trains("round2", place / "round1" / "policy", later)
    assert "base_mismatch" not in summary and metrics(place / "round2")[0]["logps_shift/chosen"] != 0


def test_values_that_another_kind_of_device_computed_are_said(place: Path, trains: Trains) -> None:
    there = trains("there")
    made_by(place / "base", head_logits=2**27)
    corrupt(place / "base")
    assert trains("here")["base_made_elsewhere"] == f"head_logits {2**27}, here {2**25}"
    assert "base_made_elsewhere" not in there and same(weights(place / "here"), weights(place / "there"))


def test_one_cache_for_old_and_base_is_checked_once(place: Path, trains: Trains) -> None:
    ppo = {"objective": "ppo", "objective_options": {"kl_coef": 0.1}}
    both = {"old_dir": place / "base"}
    corrupt(place / "base")
    with pytest.raises(ReferenceMismatch, match=r"policy and old differ .* started again, training computes the values of old"):
        trains("out", others=both, **ppo)
    summary = trains("out", others=both, **ppo)
    assert summary["old_mismatch"] < 1 and "base_mismatch" not in summary
    assert metrics(place / "out")[0]["logps_shift/chosen"] == 0


def test_the_threads_are_those_of_the_values_that_are_checked(place: Path, trains: Trains) -> None:
    """The reference's pass and the base model's may be of two runs."""
    before = torch.get_num_threads()
    numerics = json.loads((place / "base" / "numerics.json").read_text())
    (place / "base" / "numerics.json").write_text(json.dumps({**numerics, "num_threads": before + 1}))
    try:
        trains("out")
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_kl_pairs_are_computed_for_the_reference_alone(
    place: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under KTO a row of the reference takes two forward passes, and a row of the others one."""
    for name in ("base", "reference"):
        made_by(place / name, head_logits=2**27)
    cache_reference(tiny_model_dir, place / "groups", place / "old", **SETTINGS)
    rows: dict[str, int] = {}
    told: list[str] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        rows[told[-1]] = rows.get(told[-1], 0) + 1
        return row_logps(*args, **kwargs)

    def cache(config: TrainConfig, model: Path, groups: Path, folder: Path, progress: Any, of: str, temperature: float) -> None:
        told.append(of)
        own_reference.cache_for(config, model, groups, folder, progress, of, temperature)

    monkeypatch.setattr("bnf.reference.computing.row_logps", counted)
    config = TrainConfig(**BASE, objective="kto")
    prepared = prepare(config, folders_of(place, tiny_model_dir, "out"), step0_check=False, progress=ignore, cache=cache)
    num_rows = len(prepared.rows)
    assert rows == {"reference": 2 * num_rows, "base": num_rows}
    assert prepared.base_dir is not None and read_index(prepared.base_dir).identity.mismatched is None
    own_reference.cache_for(config, tiny_model_dir, place / "groups", place / "own_old", ignore, own_reference.OLD)
    assert read_index(place / "own_old").identity.mismatched is None
    # And they are all that the training needs.
    train(config, folders_of(place, tiny_model_dir, "out"), step0_check=False, progress=ignore)


@pytest.fixture
def chosen(place: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The kernels that training takes, where those of the caches are given: what the card can do is a name of the test's."""

    def follow(model_dir: Path, attention: str, *, bf16: bool, made: str | None) -> str:
        # As `auto` does on a card that can do all.
        return made or VARLEN

    monkeypatch.setattr(trainer, "implementation", follow)

    def attention(mismatch: Mismatch | None = None, **made: str) -> str:
        for name, by in made.items():
            made_by(place / name, attention=by)
        folders = folders_of(place, tiny_model_dir, "out")
        prepared = Prepared([], [], place / "reference", None, None, None, place / "base", mismatch, None)
        return trainer._attention(TrainConfig(), prepared, folders)

    return attention


def test_another_models_kernels_are_its_own(chosen: Callable[..., str]) -> None:
    assert chosen(reference=FLEX, base=VARLEN) == VARLEN


def test_those_of_the_base_model_are_followed(chosen: Callable[..., str]) -> None:
    assert chosen(reference=VARLEN, base=FLEX) == FLEX


def test_a_card_that_can_do_less_has_the_next_try_compute_them(
    chosen: Callable[..., str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "implementation", lambda *args, **kwargs: FLEX)
    with pytest.raises(
        ReferenceMismatch,
        match=rf"attention of the values of base must be .* by {FLEX}, got {VARLEN}; started again, training computes the "
        r"values of base itself",
    ):
        chosen(reference=VARLEN, base=VARLEN)
    assert noted_mismatch(place / "out", "base") == Mismatch(elsewhere=f"attention {VARLEN}, here {FLEX}")
    assert noted_mismatch(place / "out") is None
    with pytest.raises(
        ValueError, match=r"values of base must be .* though training computed it itself; write train.attention="
    ):
        chosen(noted_mismatch(place / "out", "base"))


def test_without_values_of_its_own_it_takes_what_serves(chosen: Callable[..., str], place: Path, tiny_model_dir: Path) -> None:
    """A later round: reference and base model are other models than the start."""
    for name in ("reference", "base"):
        made_by(place / name, attention=FLEX)
    folders = folders_of(place, place / "start", "out")
    (place / "start").mkdir()
    for file in ("config.json", "model.safetensors"):
        (place / "start" / file).write_text("{}")
    prepared = Prepared([], [], place / "reference", None, None, None, place / "base", None, None)
    assert trainer._attention(TrainConfig(), prepared, folders) == VARLEN
