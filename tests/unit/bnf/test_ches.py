"""CHES scores: by hand, against plain transformers, and the same however the rows are packed and computed."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from bnf.analysis.likelihood_shift import likelihood_shift
from bnf.analysis.pair_shifts import PAIR_SHIFTS_FILE
from bnf.data.groups import DEV, Completion, PromptGroup, write_groups
from bnf.data.packing import Row, pack
from bnf.model import logps
from bnf.model.logps import row_logps
from bnf.reference import cache
from bnf.reference.cache import cache_reference, read_reference
from bnf.reference.ches import CHES_FILE, PairScore, ches_scores, read_scores
from bnf.reference.index import read_index
from tests.unit.bnf.helpers import VOCABULARY, padded_logps, random_groups
from tests.unit.bnf.models import make
from tests.unit.bnf.training import ignore

SETTINGS = {"max_tokens_per_row": 64, "bf16": False, "ches": True, "progress": ignore}


def plain_scores(model: PreTrainedModel, group: PromptGroup) -> list[tuple[float, float]]:
    """Definition 2 and its length-normalized form as they stand, from transformers' own hidden states, a completion at a time."""
    states = []
    for completion in group.completions:
        ids = torch.tensor([[*group.prompt_ids, *completion.token_ids]])
        with torch.no_grad():
            last = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].double()
        states.append(last[len(group.prompt_ids) - 1 : -1])

    def score(chosen: Tensor, rejected: Tensor) -> float:
        return float(chosen @ rejected - chosen.norm() ** 2)

    return [(score(states[a].sum(0), states[b].sum(0)), score(states[a].mean(0), states[b].mean(0))) for a, b in group.pairs]


def cached(tmp_path: Path, name: str, model_dir: Path, groups: Sequence[PromptGroup], **settings: Any) -> list[PairScore]:
    """The scores that a pass over these groups writes."""
    write_groups(tmp_path / f"{name}_groups", groups)
    cache_reference(model_dir, tmp_path / f"{name}_groups", tmp_path / name, **(SETTINGS | settings))
    return list(read_scores(tmp_path / name / CHES_FILE))


def test_two_pairs_by_hand() -> None:
    # Sums of 2, 4 and 1 tokens.
    sums, lengths = torch.tensor([[1.0, 2.0], [3.0, -1.0], [1.0, 2.0]]), torch.tensor([2, 4, 1])
    found = ches_scores(sums, lengths, torch.tensor([[0, 1], [1, 0], [0, 2]]))
    # ⟨(1, 2), (3, −1)⟩ = 1 and ‖(1, 2)‖² = 5; the other way round ‖(3, −1)‖² = 10.
    assert found["ches"].tolist() == [1 - 5, 1 - 10, 0]
    # Means (½, 1), (¾, −¼) and (1, 2): products ⅛, ⅛, 2½; norms 1¼, ⅝, 1¼.
    assert found["mean_ches"].tolist() == [0.125 - 1.25, 0.125 - 0.625, 2.5 - 1.25]
    assert all(not len(value) for value in ches_scores(sums, lengths, torch.empty(0, 2, dtype=torch.long)).values())


def test_alike_completions_lose_no_digits() -> None:
    """Float32 has 7 digits: of ⟨h⁺, h⁻⟩ and ‖h⁺‖² here, which are 10⁸ each, the difference would have none right."""
    chosen = torch.full((1, 100), 1000.0)
    rejected = chosen.clone()
    rejected[0, 0] += 2**-10
    found = ches_scores(torch.cat([chosen, rejected, chosen]), torch.tensor([7, 7, 7]), torch.tensor([[0, 1], [0, 2]]))
    assert found["ches"].tolist() == [1000 * 2**-10, 0.0] and found["mean_ches"][1] == 0
    assert float(found["mean_ches"][0]) == pytest.approx(1000 * 2**-10 / 49, rel=1e-3)


# Norms and heads of their own kinds, scaled and capped logits, experts, windows and tied weights.
@pytest.mark.parametrize(
    "name", ["llama", "llama_tied", "gemma2", "cohere", "granite", "gpt_oss", "qwen3_moe", "mistral_window"]
)
def test_sums_are_of_the_states_that_the_head_reads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logps, "_SUMMED", 3)
    groups = random_groups(6, most=5)
    plain = make(name, attention="eager")
    for share_prompts in (True, False):
        (row,) = pack(groups, 1000, share_prompts=share_prompts)
        values = row_logps(make(name), row, bf16=False, hidden_sums=True)
        assert values.hidden_sums is not None
        found = ches_scores(values.hidden_sums, row.lengths, row.pairs)
        expected = torch.tensor([score for index in row.indices for score in plain_scores(plain, groups[index])])
        for form, theirs in zip(found.values(), expected.double().T, strict=True):
            torch.testing.assert_close(form.double(), theirs, rtol=1e-4, atol=1e-4)
    assert row_logps(make(name), row, bf16=False).hidden_sums is None


def test_bf16_sums_have_the_digits_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 states of 1 and one of 2⁻⁸: in bf16 the sum would stop at 256."""
    monkeypatch.setattr(logps, "_SUMMED", 100)
    hidden = torch.ones(515, 2, dtype=torch.bfloat16)
    hidden[2] = 2**-8
    group = PromptGroup("a", (1, 2), (Completion(range(513), 1),))
    (row,) = pack([group], 1000)
    assert logps._hidden_sums(hidden, row.spans).tolist() == [[512 + 2**-8] * 2]


def test_scores_are_the_same_whatever_the_rows(tiny_model_dir: Path, tmp_path: Path) -> None:
    groups = random_groups(20)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    expected = {
        (group.id, *pair): scores
        for group in groups
        for pair, scores in zip(group.pairs, plain_scores(model, group), strict=True)
    }
    ways: dict[str, dict[str, Any]] = {
        "packed": {},
        "alone": {"max_groups_per_row": 1},
        "long": {"max_tokens_per_row": 1000},
        "copied_prompts": {"max_tokens_per_row": 128, "share_prompts": False},
    }
    for name, settings in ways.items():
        found = cached(tmp_path, name, tiny_model_dir, groups, **settings)
        assert [pair[:3] for pair in found] == list(expected), "in the order of the data set"
        torch.testing.assert_close(
            torch.tensor([pair[3:] for pair in found]), torch.tensor(list(expected.values())), rtol=1e-4, atol=1e-4
        )
    backwards = {pair[:3]: pair[3:] for pair in cached(tmp_path, "backwards", tiny_model_dir, groups[::-1])}
    assert list(backwards)[-1][0] == groups[0].id
    for pair in found:
        assert backwards[pair[:3]] == pytest.approx(pair[3:], rel=1e-4, abs=1e-4)


def test_the_other_values_keep_their_bits(tiny_model_dir: Path, tmp_path: Path) -> None:
    groups = random_groups(12)
    write_groups(tmp_path / "groups", groups)
    for ches in (True, False):
        settings = SETTINGS | {"bf16": True, "kl_pairs": True, "entropies": True, "ches": ches}
        cache_reference(tiny_model_dir, tmp_path / "groups", tmp_path / str(ches), **settings)
    with_scores, without = (load_file(tmp_path / str(ches) / "reference-00000.safetensors") for ches in (True, False))
    assert with_scores.keys() - without.keys() == {"ches", "mean_ches"} and len(with_scores["ches"]) == sum(
        len(group.pairs) for group in groups
    )
    assert all(torch.equal(with_scores[name], value) for name, value in without.items())
    assert not (tmp_path / "False" / CHES_FILE).exists()


def test_completions_that_look_alike_score_higher(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Equal completions score 0. One other token at the end leaves a pair near it; of other tokens altogether it is far below."""
    generator = torch.Generator().manual_seed(0)
    prompt, chosen, other = (tuple(torch.randint(3, VOCABULARY, (12,), generator=generator).tolist()) for _ in range(3))
    near = (*chosen[:-1], other[-1])
    groups = [
        PromptGroup(name, prompt, (Completion(chosen, 1), Completion(rejected, -1)), ((0, 1),))
        for name, rejected in (("far", other), ("near", near), ("equal", chosen))
    ]
    found = {pair.group: pair for pair in cached(tmp_path, "out", tiny_model_dir, groups)}
    far, near_one, equal = (found[name].mean_ches or 0 for name in ("far", "near", "equal"))
    assert abs(equal) < 1e-5 * abs(far)
    # The last token predicts nothing: it is part of no score.
    assert near_one == pytest.approx(equal, abs=1e-5 * abs(far)) and far < 0
    group = replace(groups[1], id="middle", completions=(Completion(chosen, 1), Completion((*chosen[:6], *other[:6]), -1)))
    middle = {pair.group: pair for pair in cached(tmp_path, "middle", tiny_model_dir, [*groups, group])}["middle"].mean_ches
    assert middle is not None and far < middle < 0


def test_a_killed_pass_goes_on_to_the_same_scores(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_SHARD_TOKENS", 128)
    groups = random_groups(40)
    whole = cached(tmp_path, "whole", tiny_model_dir, groups)

    def kill(done: int, total: int, note: str) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, "killed", tiny_model_dir, groups, progress=kill)
    assert not (tmp_path / "killed" / CHES_FILE).exists() and list((tmp_path / "killed").glob("*.safetensors"))
    assert cached(tmp_path, "killed", tiny_model_dir, groups) == whole
    assert (tmp_path / "killed" / CHES_FILE).read_bytes() == (tmp_path / "whole" / CHES_FILE).read_bytes()


def test_other_pairs_of_the_same_tokens_are_scored_anew(tiny_model_dir: Path, tmp_path: Path) -> None:
    groups = random_groups(6)
    first = cached(tmp_path, "out", tiny_model_dir, groups)
    turned = [replace(group, pairs=tuple((b, a) for a, b in group.pairs)) for group in groups]
    second = cached(tmp_path, "out", tiny_model_dir, turned)
    assert [(a.chosen, a.rejected) for a in first] == [(b.rejected, b.chosen) for b in second]
    assert all(a.ches != b.ches for a, b in zip(first, second, strict=True))
    # What others made without scores has another key, and training reads either.
    index = read_index(tmp_path / "out")
    assert cached(tmp_path, "out", tiny_model_dir, turned) == second and read_index(tmp_path / "out") == index
    older = json.loads((tmp_path / "out" / "index.json").read_text())
    older.pop("ches")
    (tmp_path / "out" / "index.json").write_text(json.dumps(older))
    assert read_index(tmp_path / "out").identity.ches is None
    assert len(read_reference(tmp_path / "out", pack(turned, 64), max_tokens_per_row=64, bf16=False)) == index.num_rows


def test_dev_pairs_have_their_own_scores_and_no_pairs_none(tiny_model_dir: Path, tmp_path: Path) -> None:
    write_groups(tmp_path / "groups", [replace(group, pairs=()) for group in random_groups(5)])
    dev = random_groups(4, seed=1)
    write_groups(tmp_path / "groups" / DEV, dev)
    cache_reference(tiny_model_dir, tmp_path / "groups", tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out" / CHES_FILE).exists() and (tmp_path / "out" / "index.json").is_file()
    found = list(read_scores(tmp_path / "out" / DEV / CHES_FILE))
    assert found == cached(tmp_path, "alone", tiny_model_dir, dev)


def test_a_score_that_is_not_finite_is_null(tmp_path: Path) -> None:
    from bnf.reference.ches import write_scores

    group = PromptGroup("a\u2028b", (1,), (Completion((2,), 1), Completion((3,), -1)), ((0, 1), (1, 0)))
    row = Row((group,), (0,))
    write_scores(tmp_path / CHES_FILE, [row], iter([(float("nan"), float("inf")), (0.5, -0.1)]))
    assert "NaN" not in (tmp_path / CHES_FILE).read_text()
    assert list(read_scores(tmp_path / CHES_FILE)) == [
        PairScore("a\u2028b", 0, 1, None, None),
        PairScore("a\u2028b", 1, 0, 0.5, -0.1),
    ]


def test_analysis_says_what_became_of_each_preferred_completion(tiny_model_dir: Path, tmp_path: Path) -> None:
    groups = random_groups(12)
    scores = cached(tmp_path, "reference", tiny_model_dir, groups)
    models = [AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32) for _ in range(2)]
    with torch.no_grad():
        models[1].model.embed_tokens.weight[5:20] *= 1.5
    models[1].save_pretrained(tmp_path / "policy")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "policy" / name).write_bytes((tiny_model_dir / name).read_bytes())

    def analyze() -> None:
        likelihood_shift(
            *(tmp_path / name for name in ("policy", "reference_groups", "reference", "out")),
            max_tokens_per_row=64,
            bf16=False,
            progress=ignore,
        )

    analyze()
    found = [json.loads(line) for line in (tmp_path / "out" / PAIR_SHIFTS_FILE).read_text().splitlines()]
    assert [PairScore(*list(line.values())[:5]) for line in found] == scores
    by_id = {group.id: group for group in groups}
    with torch.no_grad():
        for line in found:
            group = by_id[line["group"]]
            alone = replace(group, completions=(group.completions[line["chosen"]],), pairs=())
            before, after = (padded_logps(model, [alone]) for model in models)
            assert line["shift"] == pytest.approx(float((after - before).sum()), abs=1e-3)
            assert line["mean_shift"] == pytest.approx(float((after - before).mean()), abs=1e-3)
    assert len({line["shift"] for line in found}) > 6
    # A reference of an older version has no scores.
    (tmp_path / "reference" / CHES_FILE).unlink()
    analyze()
    assert not (tmp_path / "out" / PAIR_SHIFTS_FILE).exists()
