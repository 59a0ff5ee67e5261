"""A reference of the recipe's choice: another model, or a temperature on the logits. What training changed is measured from its start."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bnf.data.groups import Completion, PromptGroup, write_groups
from bnf.data.packing import pack
from bnf.data.same_tokenizer import check_same_tokenizer
from bnf.model.loading import load_model
from bnf.model.logps import head_logps, row_logps
from bnf.objectives.bnf import feedback_weights
from bnf.reference.cache import cache_reference, read_reference
from bnf.reference.index import Identity, read_index
from bnf.training.collapse import TrainingCollapsed, check_evaluations
from bnf.training.config import TrainConfig
from bnf.training.own_reference import ReferenceMismatch, is_from, is_of, not_its_own
from bnf.training.preparation import Folders
from bnf.training.trainer import train
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.training import BASE, ignore, metrics

SETTINGS = {"max_tokens_per_row": 48, "bf16": False}


@pytest.fixture(scope="module")
def smaller(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer of half the width, with the tiny model's tokenizer, and embeddings that are padded to 100."""
    folder = tmp_path_factory.mktemp("smaller")
    torch.manual_seed(1)
    shape = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
    config = LlamaConfig(
        **shape, vocab_size=100, initializer_range=0.4, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model_dir / file, folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_groups(tmp_path / "groups", random_groups(12))
    write_groups(tmp_path / "groups" / "dev", random_groups(4, seed=1))
    return tmp_path / "groups"


def test_a_temperature_divides_the_logits_by_hand() -> None:
    """Logits ln 1, ln 4, ln 16 at temperature 2 are ln 1, ln 2, ln 4: shares of 1/7, 2/7, 4/7."""
    weight = torch.tensor([[1.0], [4.0], [16.0]]).log()
    hidden, targets = torch.ones(3, 1), torch.tensor([0, 1, 2])
    values = head_logps(hidden, weight, targets, temperature=2.0, entropies=True)
    assert values.logps.tolist() == pytest.approx([math.log(share / 7) for share in (1, 2, 4)], abs=1e-6)
    assert values.log_odds.tolist() == pytest.approx([math.log(share / (7 - share)) for share in (1, 2, 4)], abs=1e-6)
    entropy = -sum(share / 7 * math.log(share / 7) for share in (1, 2, 4))
    assert values.entropies.tolist() == pytest.approx([entropy] * 3, abs=1e-6)
    plain = head_logps(hidden, weight, targets)
    assert plain.logps.tolist() == pytest.approx([math.log(share / 21) for share in (1, 4, 16)], abs=1e-6)


def test_a_temperature_comes_after_the_soft_cap() -> None:
    """5·tanh(10/5) / 2 against 0; before the cap it would be 5·tanh(5/5)."""
    values = head_logps(torch.ones(1, 1), torch.tensor([[10.0], [0.0]]), torch.tensor([0]), softcap=5.0, temperature=2.0)
    assert float(values.log_odds) == pytest.approx(5 * math.tanh(2) / 2, abs=1e-6)


def test_a_cache_at_a_temperature_is_the_log_softmax_of_divided_logits(
    tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    for temperature in (1.0, 2.0):
        out = tmp_path / f"at-{temperature:g}"
        index = cache_reference(
            tiny_model_dir, data, out, **SETTINGS, progress=ignore, temperature=temperature, kl_pairs=True, entropies=True
        )
        assert index == read_index(out) and index.identity.temperature == temperature
    # A cache at temperature 1 has the index and the key that it had before there was a temperature.
    assert "temperature" not in json.loads((tmp_path / "at-1" / "index.json").read_text())
    assert json.loads((tmp_path / "at-2" / "index.json").read_text())["temperature"] == 2
    assert read_index(tmp_path / "at-1").key != read_index(tmp_path / "at-2").key
    assert (
        Identity(**{**dataclasses.asdict(read_index(tmp_path / "at-2").identity), "temperature": 1.0}).key
        == read_index(tmp_path / "at-1").key
    )

    model = load_model(tiny_model_dir).eval()
    rows = pack(list(random_groups(12)), 48)
    for row, values in zip(rows, read_reference(tmp_path / "at-2", rows, **SETTINGS), strict=True):
        found = []
        for group in row.groups:
            for completion in group.completions:
                ids = torch.tensor([[*group.prompt_ids, *completion.token_ids]])
                with torch.no_grad():
                    logits = model.get_output_embeddings()(plain_hidden(tiny_model_dir, ids))[0, :-1].float()
                every = (logits / 2).log_softmax(-1)
                found += every.gather(1, ids[0, 1:, None])[len(group.prompt_ids) - 1 :, 0].tolist()
        assert values.logps.tolist() == pytest.approx(found, abs=1e-4)


def plain_hidden(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """The hidden states of transformers' own model, in float32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().model(ids).last_hidden_state


def test_whose_values_a_cache_holds(tiny_model_dir: Path, smaller: Path, data: Path, tmp_path: Path) -> None:
    for name, folder, temperature in (("own", tiny_model_dir, 1.0), ("hot", tiny_model_dir, 2.0), ("other", smaller, 2.0)):
        cache_reference(folder, data, tmp_path / name, **SETTINGS, progress=ignore, temperature=temperature)
    assert [is_of(tmp_path / name, tiny_model_dir) for name in ("own", "hot", "other")] == [True, False, False]
    assert [is_from(tmp_path / name, tiny_model_dir) for name in ("own", "hot", "other")] == [True, True, False]
    assert [not_its_own(tmp_path / name, tiny_model_dir) for name in ("own", "hot", "other")] == [
        *(None, "at temperature 2"),
        "of another model than the one that training starts from and at temperature 2",
    ]


@pytest.mark.parametrize("which", ["smaller", "temperature"])
def test_the_objective_reads_the_reference_and_shifts_are_from_the_start(
    which: str, tiny_model_dir: Path, smaller: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, temperature = (smaller, 1.0) if which == "smaller" else (tiny_model_dir, 2.0)
    cache_reference(model, data, tmp_path / "reference", **SETTINGS, progress=ignore, temperature=temperature)
    cache_reference(tiny_model_dir, data, tmp_path / "base", **SETTINGS, progress=ignore)
    folders = Folders(
        tiny_model_dir,
        data,
        tmp_path / "reference",
        tmp_path / "out",
        None if model == tiny_model_dir else model,
        base_dir=tmp_path / "base",
    )
    config = TrainConfig(**(BASE | {"global_batch_size": 12, "dev_prompts": 2, "dev_max_new_tokens": 4, "num_train_epochs": 2}))
    summary = train(config, folders, step0_check=False, progress=ignore)
    first = metrics(tmp_path / "out")
    before = next(entry for entry in first if "eval_loss" in entry)
    step = next(entry for entry in first if "loss" in entry)
    # Nothing has changed yet: no shift and no KL, though the reference is far away.
    assert (
        before["eval_logps_shift/chosen"] == 0 and before["eval_logps_shift/rejected"] == 0 and before["eval_samples/kl"] == 0
    )
    assert step["logps_shift/chosen"] == pytest.approx(0, abs=1e-6)
    # BNF's weights are those against the reference.
    rows = pack(list(random_groups(12)), 48, max_groups_per_row=config.max_groups_per_row)
    policy = load_model(tiny_model_dir).eval()
    weights = []
    for row, values in zip(rows, read_reference(tmp_path / "reference", rows, **SETTINGS), strict=True):
        with torch.no_grad():
            own = row_logps(policy, row, bf16=False)
        chosen = (row.labels == 1)[row.completion_of_token]
        weights.append(feedback_weights(own.log_odds, values.log_odds)[chosen])
    expected = float(torch.cat(weights).double().mean())
    assert step["weights/chosen"] == pytest.approx(expected, rel=1e-5) and expected < 0.999
    assert summary.step0_check_skipped == not_its_own(tmp_path / "reference", tiny_model_dir)
    assert summary.compared_with == "the base model"
    assert "the step-0 check is skipped: the reference is" in caplog.text
    last = [entry for entry in first if "eval_loss" in entry][-1]
    assert last["eval_logps_shift/chosen"] != 0 and last["eval_samples/kl"] > 0


def test_a_reference_of_its_own_model_is_checked_and_said_to_be_one(tiny_model_dir: Path, data: Path, tmp_path: Path) -> None:
    cache_reference(tiny_model_dir, data, tmp_path / "reference", **SETTINGS, progress=ignore)
    folders = Folders(tiny_model_dir, data, tmp_path / "reference", tmp_path / "out")
    summary = train(TrainConfig(**(BASE | {"max_steps": 1, "dev_prompts": 0})), folders, step0_check=True, progress=ignore)
    assert summary.step0_check_skipped is None and "compared_with" not in summary.to_json()


def test_values_of_another_model_than_the_base_are_refused(
    tiny_model_dir: Path, smaller: Path, data: Path, tmp_path: Path
) -> None:
    cache_reference(smaller, data, tmp_path / "reference", **SETTINGS, progress=ignore)
    folders = Folders(tiny_model_dir, data, tmp_path / "reference", tmp_path / "out", smaller, base_dir=tmp_path / "reference")
    said = rf"base_dir must be of the base model, {tiny_model_dir}, got {tmp_path}/reference, which is of other weights; cache that"
    with pytest.raises(ValueError, match=said):
        train(TrainConfig(**BASE), folders, step0_check=False, progress=ignore)


def test_a_temperature_alone_is_not_called_other_weights(tiny_model_dir: Path, data: Path, tmp_path: Path) -> None:
    cache_reference(tiny_model_dir, data, tmp_path / "reference", **SETTINGS, progress=ignore, temperature=2.0)
    folders = Folders(tiny_model_dir, data, tmp_path / "reference", tmp_path / "out")
    said = r"at step 0 must be 1 .*; the reference is at temperature 2: cache this model's values at temperature 1$"
    with pytest.raises(ValueError, match=said) as caught:
        train(TrainConfig(**(BASE | {"dev_prompts": 0})), folders, step0_check=True, progress=ignore)
    assert not isinstance(caught.value, ReferenceMismatch), "another try would not help"


def test_a_collapse_names_what_it_is_measured_from() -> None:
    logged = [{"step": step, "eval_loss": 1.0, "eval_logps_shift/chosen": -2.0} for step in (0, 4)]
    with pytest.raises(TrainingCollapsed, match=r"1 nat per token of the base model, got -2\.00 at step 4"):
        check_evaluations(logged, TrainConfig(), compared_with="the base model")


def tokenizer(folder: Path, like: Path, vocabulary: dict[str, int], *, unsplit: bool = False, size: int | None = None) -> Path:
    """A model's folder with a tokenizer of these words."""
    shutil.copytree(like, folder)
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Punctuation() if unsplit else pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="w2", unk_token="w0").save_pretrained(folder)
    if size is not None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"vocab_size": size}))
    return folder


def test_another_tokenizer_is_refused_by_its_first_difference(
    tiny_model_dir: Path, smaller: Path, data: Path, tmp_path: Path
) -> None:
    words = {f"w{index}": index for index in range(97)}
    check_same_tokenizer(tiny_model_dir, smaller, data)
    swapped = words | {"w5": 6, "w6": 5}
    with pytest.raises(
        ValueError, match=r"reference.model_name_or_path must have the tokenizer of .*: 'w5' is id 5 in the .* id 6 .*\(2 tok"
    ):
        check_same_tokenizer(tiny_model_dir, tokenizer(tmp_path / "swapped", tiny_model_dir, swapped))
    fewer = {word: index for word, index in words.items() if word != "w90"}
    with pytest.raises(ValueError, match=r"'w90' is id 90 in the policy's vocabulary and no token in the other \(1 tok"):
        check_same_tokenizer(tiny_model_dir, tokenizer(tmp_path / "fewer", tiny_model_dir, fewer))
    with pytest.raises(ValueError, match="it has embeddings for 50 token ids, and needs 97; take"):
        check_same_tokenizer(tiny_model_dir, tokenizer(tmp_path / "short", tiny_model_dir, words, size=50))


def test_one_vocabulary_that_is_split_otherwise_is_found_on_the_data(tiny_model_dir: Path, data: Path, tmp_path: Path) -> None:
    words = {f"w{index}": index for index in range(97)}
    same = tokenizer(tmp_path / "same", tiny_model_dir, words)
    check_same_tokenizer(tiny_model_dir, same, data)
    # Without a split at spaces, "w5 w6" is no word that it knows.
    other = tokenizer(tmp_path / "other", tiny_model_dir, words, unsplit=True)
    check_same_tokenizer(tiny_model_dir, other)
    write_groups(tmp_path / "one", [PromptGroup("row-1", (5, 6), (Completion((7, 2), 1), Completion((8, 2), -1)))])
    with pytest.raises(
        ValueError, match=r"in group 'row-1' it reads 'w5 w6 w7 w2' as \[0, 2\], and the policy's tokenizer as \[5, 6, 7, 2\]"
    ):
        check_same_tokenizer(tiny_model_dir, other, tmp_path / "one")
