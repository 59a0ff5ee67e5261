"""The policies that a training writes: the last one or the best, and those of its way that were asked for.

On the way a policy lies in `kept/step-8`, as a model folder, or with LoRA as its adapters. At the end it is `policy/` or
`policies/step-8/`, each a model folder. Folders appear whole.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils import swap_tensors
from transformers import PreTrainedModel

from bnf.files import open_to_readers, put_folder
from bnf.links import link_folder
from bnf.model.digests import companion_files
from bnf.model.loading import empty_model, load_model, saved_buffers, stored_dtype
from bnf.model.sharding import is_sharded, whole_parameters
from bnf.model_folders import refuse_foreign_links
from bnf.parallel.group import is_first, wait_for_all
from bnf.training.adapters import add_adapter, load_adapter, merge, save_adapter, transformers_model
from bnf.training.choosing import policy_after
from bnf.training.config import TrainConfig
from bnf.training.leftovers import KEPT

POLICY = "policy"
# The adapters of a LoRA training. Weights that are not the final policy lie under a name with `checkpoint`.
ADAPTER = "adapter_checkpoint"


class Policies:
    """Keeps policies while a training goes on, and writes its policies when it has ended."""

    def __init__(
        self, config: TrainConfig, model_dir: Path, output_dir: Path, asked: Mapping[str, int], *, attention: str
    ) -> None:
        """`asked` are the names of policies that are to outlast the training, each with its step."""
        self.config, self.model_dir, self.output_dir, self.asked, self.attention = (
            config,
            model_dir,
            output_dir,
            asked,
            attention,
        )
        # The best step in the last complete checkpoint: a killed training goes on from there, and may find no better one.
        self._safe: int | None = None

    def begin(self, step: int, best: int | None) -> None:
        """The training begins, or goes on, after `step`; `best` is the best step until then.

        Raises:
            ValueError: a policy that was kept before is missing.
        """
        self._safe = best
        before = {kept for kept in self.asked.values() if kept <= step} | ({best} if best is not None else set())
        for kept in sorted(before):
            if not self._kept(kept).is_dir():
                raise ValueError(
                    f"{self._kept(kept)} must be there, as the training goes on after step {step}, got none; delete "
                    f"{self.output_dir} to begin anew"
                )
        if step == 0 and is_first():
            shutil.rmtree(self.output_dir / KEPT, ignore_errors=True)

    def asks_for(self, step: int) -> bool:
        """Whether the policy after this step is to outlast the training."""
        return step in self.asked.values()

    def keep(self, model: PreTrainedModel, step: int) -> None:
        """Keeps the policy as it is after this step. All processes must call it; nothing of the training changes."""
        if is_sharded(transformers_model(model)):
            model = gathered(model, self.config, self.model_dir, trained_only=self.config.lora_r > 0)
        if is_first():
            self._put(model, step)
        wait_for_all()

    def keep_best(self, model: PreTrainedModel, step: int) -> None:
        """Keeps the best policy so far, and drops the one before, unless a killed training would need it."""
        if not self._kept(step).is_dir() or not self.asks_for(step):
            self.keep(model, step)
        self._drop_others(step)

    def on_checkpoint(self, best: int | None) -> None:
        """A checkpoint is complete; `best` is the best step in it."""
        self._safe = best
        self._drop_others(best)

    def write(self, model: PreTrainedModel, *, last: int, best: int | None) -> None:
        """Writes the policy, and those that were asked for. Only the first process calls it; a sharded model is gathered before.

        Args:
            last: the training's last step, whose policy `model` is. A training that stopped early never came to later ones: the last
                stands for them.
            best: the step whose policy is taken; None takes the last.
        """
        asked = {min(step, last) for step in self.asked.values()}
        chosen = last if best is None else best
        if chosen != last and last in asked:
            self._put(model, last)
        for step in sorted(asked - ({last} if chosen == last else set())):
            self._write_kept(model, step)
        policy = self.output_dir / POLICY
        if chosen != last and self.config.lora_r:
            load_adapter(model, self._kept(chosen))
        if self.config.lora_r:
            save_adapter(model, self.output_dir / ADAPTER)
            model = merge(model)
        if chosen == last or self.config.lora_r:
            save_policy(model, self.model_dir, policy)
        else:
            link_folder(self._kept(chosen), policy)
        if chosen == last and last in asked:
            link_folder(policy, policy_after(self.output_dir, last))

    def _kept(self, step: int) -> Path:
        return self.output_dir / KEPT / f"step-{step}"

    def _put(self, model: PreTrainedModel, step: int) -> None:
        folder = self._kept(step)
        if not self.config.lora_r:
            save_policy(copied(model, self.config, self.model_dir), self.model_dir, folder)
            return
        unfinished = folder.with_name(folder.name + ".partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        save_adapter(model, unfinished)
        put_folder(unfinished, folder)

    def _write_kept(self, model: PreTrainedModel, step: int) -> None:
        kept, target = self._kept(step), policy_after(self.output_dir, step)
        if not self.config.lora_r:
            link_folder(kept, target)
            return
        if self.config.load_in_4bit:
            # Weights in 4 bits can't be put into another model.
            settings = self.config
            frozen = load_model(self.model_dir, weights=settings.weights, load_in_4bit=True, attention=self.attention)
            adapted = add_adapter(frozen, settings)
        else:
            adapted = copied(model, self.config, self.model_dir)
        load_adapter(adapted, kept)
        save_policy(merge(adapted), self.model_dir, target)

    def _drop_others(self, best: int | None) -> None:
        """Drops policies that were the best once."""
        wanted = {self._kept(step) for step in (*self.asked.values(), best, self._safe) if step is not None}
        if is_first():
            for folder in (self.output_dir / KEPT).glob("step-*"):
                if folder not in wanted:
                    shutil.rmtree(folder)


def gathered(model: PreTrainedModel, config: TrainConfig, model_dir: Path, *, trained_only: bool = False) -> PreTrainedModel:
    """A sharded model in one piece, on the CPU of the first process; elsewhere without values. All processes must call it.

    The weights are in the dtype of `model_dir`, in which they are written, but for a model with adapters, which are merged first. With
    `trained_only` the others get no values.
    """
    dtype = torch.float32 if config.lora_r else stored_dtype(model_dir)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad or not trained_only}
    values = ((name, whole) for name, whole in whole_parameters(model) if name in trained)
    return _assembled(values, model, config, model_dir, dtype)


def copied(model: PreTrainedModel, config: TrainConfig, model_dir: Path) -> PreTrainedModel:
    """A copy of a whole model on the CPU: in the dtype of `model_dir`, and with adapters, which are merged first, in its own."""
    dtype = None if config.lora_r else stored_dtype(model_dir)
    values = ((name, parameter.detach().cpu()) for name, parameter in model.named_parameters())
    return _assembled(values, model, config, model_dir, dtype)


def _assembled(
    values: Iterable[tuple[str, Tensor]],
    model: PreTrainedModel,
    config: TrainConfig,
    model_dir: Path,
    dtype: torch.dtype | None,
) -> PreTrainedModel:
    """A model of these values, and of `model`'s buffers."""
    whole = empty_model(model_dir)
    if config.lora_r:
        whole = add_adapter(whole, config)
    own = dict(whole.named_parameters())
    for name, found in values:
        if is_first():
            # In place of an empty one; modules that share it share the values. A copy in any case: it may be merged into.
            held = found.to(dtype or found.dtype, copy=True)
            swap_tensors(own[name], nn.Parameter(held, requires_grad=own[name].requires_grad))
    buffers = dict(saved_buffers(whole))
    for name, found in saved_buffers(model):
        buffers[name].copy_(found)
    return whole


def save_policy(model: PreTrainedModel, model_dir: Path, policy_dir: Path) -> None:
    """Writes a model folder, which appears whole: weights in the dtype of `model_dir`, all other files as they are there."""
    companions = companion_files(model_dir)
    refuse_foreign_links(model_dir, companions)
    partial = policy_dir.with_name(policy_dir.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.to(stored_dtype(model_dir)).save_pretrained(partial)  # type: ignore[arg-type]
    for file in companions:
        target = partial / file.relative_to(model_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    open_to_readers(partial)
    # A training that goes on takes what has this name for whole.
    put_folder(partial, policy_dir)
