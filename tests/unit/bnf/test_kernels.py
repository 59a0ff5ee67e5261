"""Which kernels serve, and what happens where one fails. CUDA is played: kernels for it are replaced by blocks, or raise."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from bnf.data.packing import Row
from bnf.model import cuda_attention, kernels
from bnf.model.attention import ATTENTION, KERNELS, segment_attention, serving
from bnf.model.kernels import KernelError, Shape, implementation, layer_shapes
from bnf.model.loading import load_model
from bnf.model.logps import row_logps
from bnf.reference.cache import cache_reference
from bnf.reference.index import made_elsewhere, read_index
from bnf.training.config import TrainConfig
from bnf.training.own_reference import ReferenceMismatch
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.models import MODELS, make
from tests.unit.bnf.training import ignore, run, same, weights

OUT_OF_RESOURCES = "out of resource: shared memory, Required: 180224, Hardware limit: 101376"


def by_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: Any,
    scaling: float,
    window: int | None,
    cap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    options: dict[str, Any] = {"segments": plan, "scaling": scaling, "sliding_window": window, "softcap": cap, "s_aux": sinks}
    return segment_attention(torch.nn.Module(), query, key, value, None, kernels=("blocks",), **options)[0]


def flex(module: torch.nn.Module, *arguments: Any) -> Tensor:
    return by_blocks(*arguments)


def varlen(*arguments: Any) -> Tensor:
    return by_blocks(*arguments)


def raising(error: Exception) -> Callable[..., Tensor]:
    def kernel(*arguments: Any) -> Tensor:
        raise error

    return kernel


@pytest.fixture(autouse=True)
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(kernels, "there_is_a_choice", lambda: True)
    monkeypatch.setattr(cuda_attention, "flex", flex)
    monkeypatch.setattr(cuda_attention, "varlen", varlen)
    kernels.failure.cache_clear()
    yield
    kernels.failure.cache_clear()


@pytest.fixture
def model_dir(workplace: Path) -> Path:
    return workplace / "model"


def chosen(model_dir: Path, attention: str = "auto", *, bf16: bool = True, made: str | None = None) -> tuple[str, ...]:
    return KERNELS[implementation(model_dir, attention, bf16=bf16, made=made)]


def test_what_works_serves(model_dir: Path) -> None:
    assert chosen(model_dir) == ("varlen", "flex")
    # FlashAttention computes in half precision.
    assert chosen(model_dir, bf16=False) == ("flex",)
    for attention in ("flex", "varlen", "blocks"):
        assert chosen(model_dir, attention) == (attention,)


@pytest.mark.parametrize(
    ("failing", "served", "served_fp32"),
    [
        (("flex",), ("varlen", "blocks"), ("blocks",)),
        (("varlen",), ("flex",), ("flex",)),
        (("flex", "varlen"), ("blocks",), ("blocks",)),
    ],
)
def test_auto_takes_the_next_one_and_warns_once(
    model_dir: Path,
    failing: tuple[str, ...],
    served: tuple[str, ...],
    served_fp32: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in failing:
        monkeypatch.setattr(cuda_attention, name, raising(RuntimeError(OUT_OF_RESOURCES)))
    with caplog.at_level(logging.WARNING):
        assert chosen(model_dir) == chosen(model_dir) == served
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(failing)
    assert all(f"kernel {name} does not serve" in " ".join(said) for name in failing)
    assert all("RuntimeError: out of resource: shared memory" in one for one in said)
    assert chosen(model_dir, bf16=False) == served_fp32


@pytest.mark.parametrize("part", ["output", "gradient by the key"])
def test_wrong_values_are_a_failure(
    model_dir: Path, part: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(module: torch.nn.Module, query: Tensor, key: Tensor, *rest: Any) -> Tensor:
        if part == "output":
            return flex(module, query, key, *rest) * 1.5
        # The value stays, the gradient doesn't.
        return flex(module, query, key + 0.5 * (key - key.detach()), *rest)

    monkeypatch.setattr(cuda_attention, "flex", wrong)
    assert chosen(model_dir) == ("varlen", "blocks")
    assert f"its {part} differs from that of blocks by 0.5 of the norm" in caplog.text


def test_not_a_number_is_a_failure(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_attention, "flex", lambda *arguments: flex(*arguments) * float("nan"))
    assert chosen(model_dir) == ("varlen", "blocks")


def test_memory_that_is_out_is_no_failure_of_a_kernel(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("backend='inductor' raised: OutOfMemoryError")
    error.inner_exception = torch.OutOfMemoryError("CUDA out of memory")  # type: ignore[attr-defined]
    for raised in (torch.OutOfMemoryError("CUDA out of memory"), error):
        monkeypatch.setattr(cuda_attention, "flex", raising(raised))
        with pytest.raises(torch.OutOfMemoryError):
            chosen(model_dir)
    # Nothing of that is remembered.
    monkeypatch.setattr(cuda_attention, "flex", flex)
    assert chosen(model_dir) == ("varlen", "flex")


def test_a_device_that_is_lost_ends_the_run(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_attention, "flex", raising(RuntimeError("an illegal memory access was encountered")))
    monkeypatch.setattr(kernels, "_compute", raising(RuntimeError("an illegal memory access was encountered")))
    with pytest.raises(
        RuntimeError, match=r"leave the device working, got 'flex'.*illegal memory.*; write train\.attention=blocks"
    ):
        chosen(model_dir)


def test_a_kernel_that_is_asked_for_and_fails_is_an_error(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flex", "varlen"):
        monkeypatch.setattr(cuda_attention, name, raising(NotImplementedError("head_dim must be at least 16")))
        with pytest.raises(
            KernelError,
            match=rf"attention must be .* got '{name}', which doesn't: NotImplementedError: head_dim .*attention=auto",
        ):
            chosen(model_dir, name)


def test_varlen_where_it_cannot_serve() -> None:
    for settings in ({}, {"share_prompts": False, "bf16": False}):
        with pytest.raises(
            ValueError, match=r"attention must be auto, flex or blocks here: .*, got 'varlen'; write train\.share"
        ):
            TrainConfig(attention="varlen", **settings)  # type: ignore[arg-type]
    assert TrainConfig(attention="varlen", share_prompts=False).attention == "varlen"
    capped = layer_shapes(make("gemma2", torch.float32))
    with pytest.raises(KernelError, match=r"attention must be .* got 'varlen', which doesn't: .*scores are soft-capped"):
        kernels.chosen(capped, "varlen", torch.bfloat16, "cpu", None)
    assert KERNELS[kernels.chosen(capped, "auto", torch.bfloat16, "cpu", None)] == ("flex",)


def test_flex_on_a_cpu_is_refused_and_all_others_are_blocks(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "there_is_a_choice", lambda: False)
    assert {implementation(model_dir, attention, bf16=True) for attention in ("auto", "varlen", "blocks")} == {ATTENTION}
    with pytest.raises(KernelError, match=r"attention must not be flex on a CPU, got 'flex'.*; write train\.attention=auto"):
        implementation(model_dir, "flex", bf16=True)


def test_the_names_decide_which_kernel_serves_a_row() -> None:
    from bnf.data.packing import Span
    from bnf.model.segments import SegmentPlan

    shared, plain = SegmentPlan([Span(0, 4, (2, 3))]), SegmentPlan([Span(0, 4, (2,))])
    cuda, half, full = torch.device("cuda"), torch.bfloat16, torch.float32
    served = {
        name: tuple(serving(cuda, *row, None, own) for row in ((half, shared), (half, plain), (full, plain)))
        for name, own in KERNELS.items()
        if own != ("varlen",)
    }
    assert served == {
        "bnf_segments_varlen_flex": ("flex", "varlen", "flex"),
        "bnf_segments_flex": ("flex", "flex", "flex"),
        "bnf_segments_varlen_blocks": ("blocks", "varlen", "blocks"),
        "bnf_segments_blocks": ("blocks", "blocks", "blocks"),
    }
    assert serving(cuda, half, plain, None, ("varlen",)) == "varlen"
    for row, reason in (
        ((half, shared, None), "shared"),
        ((full, plain, None), "float32"),
        ((half, plain, 2.0), "soft-capped"),
    ):
        with pytest.raises(ValueError, match=f"attention must not be varlen where .*{reason}"):
            serving(cuda, *row, ("varlen",))


@pytest.mark.parametrize("name", MODELS)
def test_kernels_are_tried_on_what_the_layers_give(name: str) -> None:
    """What each layer passes to attention, recorded, is among the shapes that are tried."""
    seen = set()

    def record(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: None, **options: Any) -> tuple[Tensor, None]:
        window = options["segments"].window(options.get("sliding_window"))
        head_dim, scaling, cap = query.shape[3], options["scaling"], options.get("softcap")
        seen.add(Shape(query.shape[1], key.shape[1], head_dim, scaling, window, cap, options.get("s_aux") is not None))
        return segment_attention(module, query, key, value, mask, **options)

    model = make(name, torch.float32)
    ALL_ATTENTION_FUNCTIONS.register("recorded", record)
    model.set_attn_implementation("recorded")
    shapes = layer_shapes(model)
    for groups in (random_groups(3), random_groups(2, prompt=(1, 1), completion=(1, 1))):
        row_logps(model, Row(tuple(groups), tuple(range(len(groups)))), bf16=False)
    assert seen == shapes


def test_sinks_are_tried_too(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    shapes = layer_shapes(make("gpt_oss", torch.float32))
    assert KERNELS[kernels.chosen(shapes, "auto", torch.bfloat16, "cpu", None)] == ("flex",)
    kernels.failure.cache_clear()

    def without(*arguments: Any) -> Tensor:
        *others, sinks = arguments
        return flex(*others, sinks.detach() + 0.5 * (sinks - sinks.detach()))

    monkeypatch.setattr(cuda_attention, "flex", without)
    assert KERNELS[kernels.chosen(shapes, "auto", torch.bfloat16, "cpu", None)] == ("blocks",)
    assert "its gradient by the sinks differs" in caplog.text
    with pytest.raises(KernelError, match=r"got 'varlen', which doesn't: .*sinks"):
        kernels.chosen(shapes, "varlen", torch.bfloat16, "cpu", None)


@pytest.mark.parametrize(
    ("names", "common"),
    [
        (["varlen_flex"] * 3, "varlen_flex"),
        (["varlen_flex", "varlen_blocks"], "varlen_blocks"),
        (["varlen_flex", "flex"], "flex"),
        (["flex", "varlen_blocks"], "blocks"),
        (["blocks", "varlen_flex"], "blocks"),
    ],
)
def test_processes_agree_on_what_all_cards_can(names: list[str], common: str) -> None:
    assert kernels.in_common([f"bnf_segments_{name}" for name in names]) == f"bnf_segments_{common}"
    assert kernels.in_common([ATTENTION] * 2) == ATTENTION


def reference(workplace: Path, folder: Path, **options: Any) -> str:
    options = {"max_tokens_per_row": 48, "bf16": False, "progress": ignore} | options
    cache_reference(workplace / "model", workplace / "groups", folder, **options)
    return read_index(folder).identity.attention


@pytest.fixture
def place(workplace: Path, tmp_path: Path) -> Path:
    for name in ("model", "groups"):
        (tmp_path / name).symlink_to(workplace / name)
    return tmp_path


def test_training_does_as_the_reference_did(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The reference pass did without FlexAttention. So does the training, without trying it."""
    monkeypatch.setattr(cuda_attention, "flex", raising(RuntimeError(OUT_OF_RESOURCES)))
    assert reference(place, place / "reference_False") == "bnf_segments_blocks"
    tried: list[str] = []
    monkeypatch.setattr(cuda_attention, "flex", lambda *arguments: tried.append("flex"))
    kernels.failure.cache_clear()
    summary = run(place, place / "out", max_steps=1)
    assert not tried and summary["reference_made_elsewhere"] is None
    assert "computed by blocks, as the reference was" in caplog.text


def test_training_that_cannot_do_as_the_reference_did_computes_its_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reference(place, place / "reference_False") == "bnf_segments_flex"
    monkeypatch.setattr(cuda_attention, "flex", raising(RuntimeError(OUT_OF_RESOURCES)))
    kernels.failure.cache_clear()
    with pytest.raises(ReferenceMismatch, match="computed as the training's, by bnf_segments_blocks, got bnf_segments_flex"):
        run(place, place / "out", max_steps=1)
    summary = run(place, place / "out", max_steps=1)
    assert summary["reference_made_elsewhere"] == "attention bnf_segments_flex, here bnf_segments_blocks"


def test_a_reference_of_other_kernels_than_those_asked_for_is_not_taken(place: Path) -> None:
    assert reference(place, place / "reference_False") == "bnf_segments_flex"
    assert made_elsewhere(place / "reference_False", "auto") is None is made_elsewhere(place / "reference_False", "flex")
    assert made_elsewhere(place / "reference_False", "blocks") == "attention bnf_segments_flex, here blocks"
    summary = run(place, place / "out", max_steps=1, attention="blocks")
    assert summary["reference_made_elsewhere"] == "attention bnf_segments_flex, here blocks"


def test_caches_of_other_kernels_differ_on_cuda_and_not_on_a_cpu(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {}
    for cuda in (True, False):
        monkeypatch.setattr(kernels, "there_is_a_choice", lambda cuda=cuda: cuda)
        for attention in ("auto", "blocks"):
            reference(place, place / f"{attention}{cuda}", attention=attention)
            keys[attention, cuda] = read_index(place / f"{attention}{cuda}").key
    assert keys["auto", True] != keys["blocks", True] and keys["auto", False] == keys["blocks", False]


def test_a_model_is_loaded_with_the_kernels(place: Path) -> None:
    model = load_model(place / "model", attention="bnf_segments_varlen_blocks")
    assert model.config._attn_implementation == "bnf_segments_varlen_blocks"
    row = Row(tuple(random_groups(3)), (0, 1, 2))
    # On a CPU blocks serve under every name.
    assert torch.equal(row_logps(model, row, bf16=True).logps, row_logps(load_model(place / "model"), row, bf16=True).logps)
    model.save_pretrained(place / "saved")
    assert "bnf_segments" not in (place / "saved" / "config.json").read_text()


def test_attention_changes_no_policy_on_a_cpu(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "there_is_a_choice", lambda: False)
    for attention in ("auto", "blocks"):
        run(workplace, tmp_path / attention, max_steps=2, attention=attention)
    assert same(weights(tmp_path / "auto"), weights(tmp_path / "blocks"))
    # So it is one training, which may go on under the other setting.
    run(workplace, tmp_path / "auto", max_steps=2, attention="blocks")
    monkeypatch.setattr("bnf.training.preparation.attention_counts", lambda attention: True)
    with pytest.raises(ValueError, match="output_dir must be new or hold the same training"):
        run(workplace, tmp_path / "auto", max_steps=2, attention="blocks")
