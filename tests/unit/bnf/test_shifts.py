import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bnf.analysis.likelihood_shift import likelihood_shift
from bnf.analysis.token_shifts import POLICY_LOGPS, token_shifts, values_elsewhere
from bnf.data.groups import DEV, write_groups
from bnf.data.packing import pack
from bnf.reference.cache import cache_reference
from tests.unit.bnf.helpers import padded_logps, random_groups
from tests.unit.bnf.test_reference import SETTINGS, ignore

ROOT = Path(__file__).resolve().parents[3]
# What the report's process imports and calls: how many completions it shows, and which of the heavy libraries it has loaded for them.
WITHOUT_TORCH = """
import sys
from pathlib import Path
import evaluation.report.build, tasks.child, tasks.stages.report
from bnf.analysis.token_shifts import token_shifts
found = token_shifts(*map(Path, sys.argv[1:]), max_groups_per_row=None, num_groups=3)
print(len(found), [name for name in ("torch", "transformers") if name in sys.modules])
"""


def test_shifts_compare_policy_and_reference_by_label(tiny_model_dir: Path, tmp_path: Path) -> None:
    groups = random_groups(12)
    write_groups(tmp_path / "groups", groups)
    policy_dir = tmp_path / "policy"
    models = {"reference": AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)}
    models["policy"] = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    with torch.no_grad():
        models["policy"].model.embed_tokens.weight[5] *= 1.5
    models["policy"].save_pretrained(policy_dir)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (policy_dir / name).write_bytes((tiny_model_dir / name).read_bytes())

    settings = SETTINGS | {"bf16": False}
    cache_reference(tiny_model_dir, tmp_path / "groups", tmp_path / "reference", **settings, progress=ignore)
    shifts = likelihood_shift(
        policy_dir, tmp_path / "groups", tmp_path / "reference", tmp_path / "out", **settings, progress=ignore
    ).to_json()
    assert shifts == json.loads((tmp_path / "out" / "shifts.json").read_text())

    ordered = [groups[index] for row in pack(groups, 64) for index in row.indices]
    completions = [completion for group in ordered for completion in group.completions]
    lengths = [len(completion.token_ids) for completion in completions]
    with torch.no_grad():
        logps = {name: padded_logps(model, ordered).split(lengths) for name, model in models.items()}
    for name, label in (("preferred", 1), ("dispreferred", -1)):
        mine = [index for index, completion in enumerate(completions) if completion.label == label]
        part = shifts[name]
        assert part["completions"] == len(mine) and part["tokens"] == sum(lengths[index] for index in mine)
        for model in models:
            expected = torch.stack([logps[model][index].mean() for index in mine]).mean()
            assert part["logps_per_token"][model] == pytest.approx(float(expected), abs=1e-4)
            expected = torch.stack([logps[model][index].sum() for index in mine]).mean()
            assert part["logps_sum"][model] == pytest.approx(float(expected), abs=1e-4)
        shift = torch.cat([logps["policy"][index] - logps["reference"][index] for index in mine])
        assert part["shift_quantiles"]["0"] == pytest.approx(float(shift.min()), abs=1e-4)
        assert part["shift_quantiles"]["1"] == pytest.approx(float(shift.max()), abs=1e-4)
        assert sum(part["shift_histogram"]["counts"]) == part["tokens"]
        fall = part["largest_falls"][0]
        assert fall["policy_logp"] - fall["reference_logp"] == pytest.approx(float(shift.min()), abs=1e-4)
        group = next(group for group in groups if group.id == fall["group"])
        token = group.completions[fall["completion"]].token_ids[fall["position"]]
        assert group.completions[fall["completion"]].label == label
        assert fall["token"] == f"w{token}"

    # Token by token, for people: the same values, out of what the stages keep.
    places = policy_dir, tmp_path / "groups", tmp_path / "reference", tmp_path / "out" / POLICY_LOGPS
    shown = token_shifts(*places, max_groups_per_row=None, num_groups=3)
    assert len({one.group for one in shown}) == 3
    for one in shown:
        group = next(group for group in ordered if group.id == one.group)
        number = next(n for n, completion in enumerate(group.completions) if completion.label == one.label)
        index = completions.index(group.completions[number])
        values = [[getattr(token, f"{name}_logp") for token in one.tokens] for name in models]
        for name, found in zip(models, values, strict=True):
            assert found == pytest.approx(logps[name][index].tolist(), abs=1e-4)
        assert "".join(token.text for token in one.tokens).split() == [f"w{id}" for id in group.completions[number].token_ids]
        assert one.num_left_out == 0 and one.prompt.split() == [f"w{id}" for id in group.prompt_ids]
    # Groups with both labels come first, and of other rows there are no values.
    both = {group.id for group in groups if {completion.label for completion in group.completions} == {1, -1}}
    assert {one.group for one in shown} <= both and len(shown) == 6
    assert token_shifts(*places, max_groups_per_row=1, num_groups=3) == []
    loaded = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *map(str, places)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert loaded.stdout == "6 []\n"

    assert not values_elsewhere(*places[1:])
    (tmp_path / "reference" / "reference-00000.safetensors").unlink()
    assert values_elsewhere(*places[1:])
    assert not values_elsewhere(tmp_path / "groups", tmp_path / "reference", tmp_path / "older"), "none were kept"
    assert token_shifts(*places, max_groups_per_row=None, num_groups=3) == []


def test_nothing_shifts_where_policy_is_the_reference(tiny_model_dir: Path, tmp_path: Path) -> None:
    write_groups(tmp_path / "groups", random_groups(6))
    cache_reference(tiny_model_dir, tmp_path / "groups", tmp_path / "reference", **SETTINGS, progress=ignore)
    shifts = likelihood_shift(
        tiny_model_dir, tmp_path / "groups", tmp_path / "reference", tmp_path / "out", **SETTINGS, progress=ignore
    ).to_json()
    for name in ("preferred", "dispreferred"):
        assert set(shifts[name]["shift_quantiles"].values()) == {0.0}
        assert shifts[name]["share_of_tokens_down"] == 0


def test_dev_groups_have_their_own_part(tiny_model_dir: Path, tmp_path: Path) -> None:
    policy = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    with torch.no_grad():
        policy.model.embed_tokens.weight[5] *= 1.5
    policy.save_pretrained(tmp_path / "policy")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "policy" / name).write_bytes((tiny_model_dir / name).read_bytes())
    found = {}
    for name, train_seed in (("with", 0), ("alone", 1)):
        folder = tmp_path / name
        write_groups(folder / "groups", random_groups(6, seed=train_seed))
        if name == "with":
            write_groups(folder / "groups" / DEV, random_groups(6, seed=1))
        cache_reference(tiny_model_dir, folder / "groups", folder / "reference", **SETTINGS, progress=ignore)
        found[name] = likelihood_shift(
            tmp_path / "policy", folder / "groups", folder / "reference", folder / "out", **SETTINGS, progress=ignore
        ).to_json()
    # The figures of the dev groups are those they have as a data set of their own.
    assert found["with"][DEV] == found["alone"] and "dev" not in found["alone"]
    assert found["with"]["preferred"] != found["alone"]["preferred"]
