"""Optimizers with small states: what a checkpoint holds of them is read without pickle, and they go on from it to the same bits."""

from pathlib import Path

import pytest
import torch
from transformers import Trainer

from bnf.training.arguments import training_arguments
from bnf.training.config import TrainConfig

PACKAGES = {"stable_adamw": "optimi", "adamw_torch_8bit": "torchao", "adamw_torch_4bit": "torchao"}


def trained(optim: str, folder: Path, *, resume_at: int | None = None, device: str = "cpu") -> list[torch.Tensor]:
    """The weights after six steps. Their matrices are large enough for states in 8 bits, which begin at 4096 numbers."""
    config = TrainConfig(optim=optim, learning_rate=1e-3)
    optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(training_arguments(config, folder, evaluates=False))

    def made() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Linear(128, 64, bias=False)).to(device)
        return model, optimizer_class(model.parameters(), **settings)

    torch.manual_seed(0)
    model, optimizer = made()
    for step in range(6):
        if step == resume_at:
            weights = model.state_dict()
            torch.save(optimizer.state_dict(), folder / "optimizer.pt")
            model, optimizer = made()
            model.load_state_dict(weights)
            # As transformers reads it.
            optimizer.load_state_dict(torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True))
        batch = torch.randn(8, 64, generator=torch.Generator().manual_seed(step))
        model(batch.to(device)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize(
    "optim",
    [
        *(
            "adafactor",
            "stable_adamw",
            "adamw_8bit",
            "adamw_bnb_8bit",
            "lion_8bit",
            "lion_32bit",
            "ademamix_8bit",
            "rmsprop_bnb_8bit",
        ),
        # Compiled, which takes seconds.
        *(pytest.param(name, marks=pytest.mark.nightly) for name in ("adamw_torch_8bit", "adamw_torch_4bit")),
    ],
)
def test_a_resumed_optimizer_goes_on_to_the_same_bits(optim: str, tmp_path: Path) -> None:
    if optim != "adafactor":
        package = PACKAGES.get(optim, "bitsandbytes")
        pytest.importorskip(package, reason=f"{package} is not installed")
    whole, resumed = trained(optim, tmp_path), trained(optim, tmp_path, resume_at=3)
    assert all(torch.equal(one, other) for one, other in zip(whole, resumed, strict=True))
    assert (tmp_path / "optimizer.pt").is_file()
