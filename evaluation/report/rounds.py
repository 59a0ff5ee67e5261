"""On-policy rounds: what each round's samples were worth, how far its policy had moved, and what was spent until then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation import formats
from evaluation.records import Record, read_json, read_records


def summarize_rounds(folders: Sequence[Mapping[str, Path]]) -> list[Record]:
    """One entry per round from its artifacts' folders: `label`, `prepare` and `train`, and where there are several `measure`.

    An entry's rewards, entropy and KL are those of the policy that the round starts from; `spent` counts samples, labels, sampled
    tokens and updates of this round and those before it. `clipped` is the mean share of clipped ratios in the round's training, None for
    objectives that clip none.
    """
    spent = {"samples": 0, "labels": 0, "tokens": 0, "updates": 0}
    entries = []
    for number, stages in enumerate(folders, start=1):
        rewards = read_json(stages["label"] / "rewards.json")
        ledger = read_json(stages["prepare"] / "ledger.json")
        steps = read_json(stages["train"] / "train_summary.json")["steps"]
        for part in filter(None, (rewards, rewards["held_out"])):
            spent["samples"] += part["num_samples"]
            spent["labels"] += part["num_labels"]
            spent["tokens"] += part["num_tokens"]
        spent["updates"] += steps
        measured = read_json(stages["measure"] / "divergence.json") if "measure" in stages else {}
        entries.append(
            {
                "round": number,
                "samples": rewards,
                "entropy": measured.get("entropy"),
                "kl": measured.get("kl"),
                "kl_per_token": measured.get("kl_per_token"),
                "num_groups": ledger["num_groups"],
                "num_offline": ledger["num_offline"],
                "updates": steps,
                "clipped": _clipped(stages["train"] / "metrics.jsonl"),
                "spent": dict(spent),
            }
        )
    return entries


def round_rows(rounds: Sequence[Record]) -> list[dict[str, str]]:
    """The rounds as rows of a table; columns that say nothing in any round are left out."""
    rows = [_row(entry) for entry in rounds]
    return [{name: value for name, value in row.items() if any(other[name] != formats.NONE for other in rows)} for row in rows]


def _row(entry: Record) -> dict[str, str]:
    samples, held_out = entry["samples"], entry["samples"]["held_out"] or {}
    passes = samples["pass_at_k"] or {}
    most = max(passes, key=int, default="")
    return {
        "round": str(entry["round"]),
        "mean reward": formats.number(samples["reward_mean"], 3),
        "best of a prompt": formats.number(samples["reward_best"], 3),
        "pass@1": _percent(passes.get("1")),
        "pass@k": f"{_percent(passes[most])} (k={most})" if most not in ("", "1") else formats.NONE,
        "all right": _percent(samples["all_right"]),
        "all wrong": _percent(samples["all_wrong"]),
        "held-out reward": formats.number(held_out.get("reward_mean"), 3),
        "held-out gold": formats.number(held_out.get("gold_mean"), 3),
        "distinct": _percent(samples["distinct"]),
        "tokens": formats.number(samples["tokens"], 1),
        "unterminated": _percent(samples["unterminated"]),
        "entropy": formats.number(entry["entropy"], 3),
        "KL": formats.number(entry["kl"], 3),
        "groups": str(entry["num_groups"]) + (f" ({entry['num_offline']} offline)" if entry["num_offline"] else ""),
        "updates": str(entry["updates"]),
        "clipped": _percent(entry["clipped"]),
    }


def _clipped(metrics_file: Path) -> float | None:
    steps = read_records(metrics_file) if metrics_file.is_file() else []
    shares = [step["clip_ratio/low"] + step["clip_ratio/high"] for step in steps if "clip_ratio/low" in step]
    return sum(shares) / len(shares) if shares else None


def _percent(share: float | None) -> str:
    return formats.NONE if share is None else f"{formats.number(100 * share, 1)} %"
