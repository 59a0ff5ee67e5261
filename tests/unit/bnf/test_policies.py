"""Which policies outlast a training: the best on the dev groups, and those of its way; also after a kill at any moment."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bnf.data.groups import DEV, Completion, PromptGroup, write_groups
from bnf.training.choosing import every_save, policy_after, step_of
from bnf.training.config import TrainConfig
from bnf.training.policies import ADAPTER
from bnf.training.preparation import Folders
from bnf.training.trainer import train
from tasks.keys import ROOT
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.training import BASE, ignore, metrics, run, same, weights

# The dev loss falls until the fifth step and rises then, of all weights and of adapters.
STEADY: dict[str, Any] = {
    **{"objective": "dpo", "learning_rate": 0.02, "lr_scheduler_type": "constant", "warmup_ratio": 0.0},
    **{"eval_steps": 100, "dev_prompts": 2, "dev_max_new_tokens": 2},
}
LORA: dict[str, Any] = {"lora_r": 4}
BEST: dict[str, Any] = STEADY | {"eval_steps": 1, "keep_best": "eval_loss", "max_steps": 8, "save_steps": 3}
KINDS = pytest.mark.parametrize("kind", [{"seed": 1}, LORA], ids=["all weights", "adapters"])


def trained(workplace: Path, output: Path, checkpoints: list[str], **settings: Any) -> dict[str, Any]:
    folders = Folders(workplace / "model", workplace / "groups", workplace / "reference_False", output)
    config = TrainConfig(**(BASE | settings))
    return train(config, folders, step0_check=True, progress=ignore, checkpoints=checkpoints).to_json()


def dev_figures(output: Path, name: str) -> dict[int, float]:
    return {line["step"]: line[name] for line in metrics(output) if "eval_loss" in line}


def stopped(workplace: Path, output: Path, step: int, **settings: Any) -> None:
    def stop(done: int, of: int, note: str) -> None:
        if done == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(workplace, output, stop, **settings)


@pytest.mark.integration
@KINDS
def test_the_best_policy_is_that_of_a_training_which_ends_there(dev_workplace: Path, tmp_path: Path, kind: Any) -> None:
    summary = run(dev_workplace, tmp_path / "best", **(BEST | kind))
    losses = dev_figures(tmp_path / "best", "eval_loss")
    assert min(list(losses)[1:], key=losses.__getitem__) == 5
    kept = {"figure": "eval_loss", "step": 5, "value": losses[5], "last_step": 8, "last_value": losses[8]}
    assert summary["kept"] == kept | {"planned_steps": 8, "patience": None}
    assert summary["dev"]["after"]["eval_loss"] == losses[5] < losses[8]
    run(dev_workplace, tmp_path / "five", **(STEADY | kind), max_steps=5)
    assert same(weights(tmp_path / "best"), weights(tmp_path / "five"))
    if "lora_r" in kind:
        adapters = [load_file(tmp_path / of / ADAPTER / "adapter_model.safetensors") for of in ("best", "five")]
        assert same(*adapters)
    names = {path.name for path in (tmp_path / "five").iterdir()}
    assert {path.name for path in (tmp_path / "best").iterdir()} == names
    assert {path.name for path in (tmp_path / "best" / "policy").iterdir()} == {
        path.name for path in (tmp_path / "five" / "policy").iterdir()
    }


def test_the_last_policy_may_be_the_best(dev_workplace: Path, tmp_path: Path) -> None:
    summary = run(dev_workplace, tmp_path / "best", **(BEST | {"seed": 1, "max_steps": 5}))
    assert summary["kept"]["step"] == summary["kept"]["last_step"] == 5
    run(dev_workplace, tmp_path / "last", **STEADY, seed=1, max_steps=5)
    assert same(weights(tmp_path / "best"), weights(tmp_path / "last"))


@KINDS
@pytest.mark.integration
def test_a_stopped_training_keeps_the_same_policy(dev_workplace: Path, tmp_path: Path, kind: Any) -> None:
    """Whether the checkpoint that it goes on from knows the best policy (7), or an older one that is the best no more (5)."""
    run(dev_workplace, tmp_path / "whole", **(BEST | kind))
    for step, resumed in ((5, 3), (7, 6)):
        folder = tmp_path / f"stopped{step}"
        stopped(dev_workplace, folder, step, **(BEST | kind))
        summary = run(dev_workplace, folder, **(BEST | kind))
        assert summary["resumed_from_step"] == resumed and summary["kept"]["step"] == 5
        assert same(weights(tmp_path / "whole"), weights(folder))
        assert dev_figures(folder, "eval_loss") == dev_figures(tmp_path / "whole", "eval_loss")


def test_what_a_checkpoint_takes_for_the_best_stays_until_the_next_one(dev_workplace: Path, tmp_path: Path) -> None:
    """Elsewhere a step that is computed again may be no better."""
    settings = BEST | {"seed": 1}
    stopped(dev_workplace, tmp_path, 5, **settings)
    # 3 is the checkpoint's, 4 was the best until 5 was evaluated.
    assert {path.name for path in (tmp_path / "kept").iterdir()} >= {"step-3", "step-4"}
    state = json.loads((tmp_path / "checkpoints" / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["best_global_step"] == 3
    for file in (tmp_path / "kept" / "step-3").iterdir():
        file.unlink()
    (tmp_path / "kept" / "step-3").rmdir()
    with pytest.raises(ValueError, match=r"kept/step-3 must be there, as the training goes on after step 3, got none; delete"):
        run(dev_workplace, tmp_path, **settings)


PATIENT = BEST | {"seed": 1, "max_steps": 12, "early_stopping_patience": 2, "save_steps": 2}


@pytest.mark.integration
def test_a_training_stops_when_its_patience_is_at_an_end(dev_workplace: Path, tmp_path: Path) -> None:
    summary = run(dev_workplace, tmp_path / "whole", **PATIENT)
    assert summary["kept"] | {"value": 0, "last_value": 0} == {
        **{"figure": "eval_loss", "step": 5, "value": 0, "last_step": 7, "last_value": 0, "planned_steps": 12, "patience": 2}
    }
    assert summary["steps"] == 7 == max(dev_figures(tmp_path / "whole", "eval_loss"))
    run(dev_workplace, tmp_path / "five", **STEADY, seed=1, max_steps=5)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "five"))
    # The sixth step was the first without a better figure, and its checkpoint counts it.
    for step in (6, 7):
        folder = tmp_path / f"stopped{step}"
        stopped(dev_workplace, folder, step, **PATIENT)
        summary = run(dev_workplace, folder, **PATIENT)
        assert summary["steps"] == 7 and summary["resumed_from_step"] == (4 if step == 6 else 6)
        assert same(weights(tmp_path / "whole"), weights(folder))


@pytest.mark.integration
def test_a_killed_training_goes_on_with_the_count_and_the_best(dev_workplace: Path, tmp_path: Path) -> None:
    """Killed by -9 while the best policy is written, and then while the last one is."""
    asked = ["save1", "step5"]
    whole = trained(dev_workplace, tmp_path / "whole", asked, **PATIENT)
    for place, resumed in (("kept/step-5.partial", 4), ("policy.partial", 6)):
        script = (
            "import os, signal\n"
            "from pathlib import Path\n"
            "from tests.unit.bnf.test_policies import trained\n"
            "def dying(source, target):\n"
            f"    if str(source).endswith({place!r}):\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "    replace(source, target)\n"
            "replace, os.replace = os.replace, dying\n"
            f"trained(Path({str(dev_workplace)!r}), Path({str(tmp_path / 'killed')!r}), {asked!r}, **{PATIENT!r})\n"
        )
        process = subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT, env=dict(os.environ))
        assert process.returncode == -signal.SIGKILL
        checkpoints = {path.name for path in (tmp_path / "killed" / "checkpoints").glob("checkpoint-*")}
        assert checkpoints == {f"checkpoint-{resumed}"}
    summary = trained(dev_workplace, tmp_path / "killed", asked, **PATIENT)
    assert summary["resumed_from_step"] == 6
    assert (summary["kept"], summary["policies"]) == (whole["kept"], whole["policies"])
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    for step in (2, 5):
        files = [policy_after(tmp_path / of, step) / "model.safetensors" for of in ("whole", "killed")]
        assert same(*map(load_file, files))


def test_a_training_that_is_killed_while_it_clears_up_is_complete(
    dev_workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(folder: Path, **options: bool) -> None:
        if folder.name == "checkpoints":
            next(folder.rglob("*.safetensors")).unlink()
            raise KeyboardInterrupt
        rmtree(folder, **options)

    rmtree = shutil.rmtree

    settings = BEST | {"seed": 1, "max_steps": 4, "save_steps": 2}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", broken_off)
        run(dev_workplace, tmp_path, **settings)
    assert list(tmp_path.glob("checkpoints/*")) and (tmp_path / "kept").is_dir()
    before = weights(tmp_path)
    assert run(dev_workplace, tmp_path, **settings)["steps"] == 4 and same(weights(tmp_path), before)
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "kept").exists()


@KINDS
@pytest.mark.integration
def test_policies_of_the_way_are_those_of_trainings_that_end_there(dev_workplace: Path, tmp_path: Path, kind: Any) -> None:
    settings = STEADY | kind
    summary = trained(dev_workplace, tmp_path / "whole", ["save1", "step3", "step4"], **settings, max_steps=4, save_steps=0.5)
    assert summary["policies"] == {"save1": 2, "step3": 3, "step4": 4} and "kept" not in summary
    for steps in (2, 3, 4):
        output = tmp_path / f"of{steps}"
        trained(dev_workplace, output, [], **settings, max_steps=steps)
        assert same(load_file(policy_after(tmp_path / "whole", steps) / "model.safetensors"), weights(output))
    assert {path.name for path in (tmp_path / "whole" / "policies" / "step-2").iterdir()} == {
        path.name for path in (tmp_path / "whole" / "policy").iterdir()
    }
    assert not (tmp_path / "whole" / "kept").exists()


@KINDS
@pytest.mark.integration
def test_the_best_and_those_of_the_way_together(dev_workplace: Path, tmp_path: Path, kind: Any) -> None:
    """The last policy is no longer the model's, and one that was asked for lies after an early stop."""
    settings = BEST | kind | {"early_stopping_patience": 2, "max_steps": 12}
    summary = trained(dev_workplace, tmp_path / "both", ["step2", "step5", "step11"], **settings)
    assert summary["policies"] == {"step2": 2, "step5": 5, "step11": 7} and summary["kept"]["step"] == 5
    for steps in (2, 5, 7):
        run(dev_workplace, tmp_path / f"of{steps}", **(STEADY | kind), max_steps=steps)
        file = policy_after(tmp_path / "both", steps) / "model.safetensors"
        assert same(load_file(file), weights(tmp_path / f"of{steps}"))
    assert same(weights(tmp_path / "both"), weights(tmp_path / "of5"))


def test_accuracy_is_of_pairs_or_of_all_completions(dev_workplace: Path, tmp_path: Path) -> None:
    summary = run(dev_workplace, tmp_path, **(BEST | {"seed": 1, "keep_best": "eval_accuracy", "max_steps": 8}))
    accuracies = dev_figures(tmp_path, "eval_rewards/accuracies")
    # Of equal ones the first.
    assert summary["kept"]["step"] == max(list(accuracies)[1:], key=accuracies.__getitem__)
    assert summary["kept"]["value"] == max(list(accuracies.values())[1:])
    assert set(dev_figures(tmp_path, "eval_rewards/num_pairs").values()) == {16}


def workplace_with(dev: list[PromptGroup] | None, dev_workplace: Path, folder: Path) -> Path:
    (folder / "model").symlink_to(dev_workplace / "model")
    (folder / "reference_False").symlink_to(dev_workplace / "reference_False")
    write_groups(folder / "groups", random_groups(24))
    if dev is not None:
        write_groups(folder / "groups" / DEV, dev)
    return folder


@pytest.mark.parametrize(
    ("dev", "settings", "message"),
    [
        (None, {}, r"keep_best must be none where the data have no dev groups, got 'eval_loss'; raise prepare.dev_fraction"),
        (
            [PromptGroup("a", (5, 6), (Completion((7, 2), 1),), ())],
            {"keep_best": "eval_accuracy"},
            r"keep_best must be eval_loss or none where the dev groups hold neither pairs nor both labels, got 'eval_accuracy'",
        ),
        (
            random_groups(2),
            {"eval_steps": 100},
            r"eval_steps must give keep_best several evaluations to choose from, got 1 in the whole training; write",
        ),
    ],
)
def test_there_must_be_something_to_choose_by(
    dev: Any, settings: dict[str, Any], message: str, dev_workplace: Path, tmp_path: Path
) -> None:
    place = workplace_with(dev, dev_workplace, tmp_path)
    with pytest.raises(ValueError, match=message):
        run(place, tmp_path / "output", **(BEST | settings))


def test_a_step_that_never_comes_is_refused(dev_workplace: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"evaluation\.checkpoints must be steps of the training, which has 4, got 9; lower it, or write all"
    ):
        trained(dev_workplace, tmp_path, ["step9"], **STEADY, max_steps=4)


@pytest.mark.parametrize(("save_steps", "steps"), [(0.25, 16), (0.25, 10), (0.25, 5), (0.3, 100), (0.1, 30), (4, 16), (5, 16)])
def test_every_save_is_where_transformers_saves(save_steps: float, steps: int) -> None:
    between = torch.ceil(torch.tensor(steps * save_steps, dtype=torch.float64)).item() if save_steps < 1 else save_steps
    expected = {step for step in range(1, steps) if step % between == 0}
    found = [step_of(name, save_steps, steps) for name in every_save(save_steps, steps, with_last=False)]
    assert {step for step in found if step < steps} == expected and found == sorted(found)
    assert step_of(every_save(save_steps, steps, with_last=True)[-1], save_steps, steps) == steps


def test_the_number_of_saves_must_be_known() -> None:
    with pytest.raises(
        ValueError, match=r"save_steps must be a share of all steps, or max_steps set, .*got 100 steps.*write train"
    ):
        every_save(100, -1, with_last=False)


def test_a_key_has_what_is_set() -> None:
    plain = TrainConfig().identity()
    assert not {"keep_best", "early_stopping_patience"} & plain.keys()
    best = TrainConfig(keep_best="eval_loss", early_stopping_patience=3).identity()
    assert best == plain | {"keep_best": "eval_loss", "early_stopping_patience": 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"keep_best": "loss"},
            r"keep_best must be one of none, eval_accuracy, eval_loss, got 'loss'; write train.keep_best=eval_loss",
        ),
        (
            {"early_stopping_patience": 2},
            r"early_stopping_patience must be left out where keep_best is none .*, got 2; leave it out",
        ),
        ({"keep_best": "eval_loss", "early_stopping_patience": 0}, r"early_stopping_patience must be at least 1, got 0"),
    ],
)
def test_settings_that_say_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_dict(settings)


def test_without_dev_groups_nothing_can_be_the_best() -> None:
    with pytest.raises(
        ValueError, match=r"keep_best must be left at none where there are no dev groups .*; prepare.dev_fraction=0.1 puts some"
    ):
        TrainConfig(keep_best="eval_loss").check_unevaluated()
