"""A model's answers to conversations of several turns: every later turn follows the model's own earlier answers.

completions.jsonl has a line per turn: `id` is made of the question's id and the turn, which `question_id` and `turn` name. It is resumable
by turn and item like `generate`: no answer is missing and none is there twice. At a temperature above 0 a resumed run gives other texts.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bnf.data.system_prompt import with_system_prompt
from evaluation.answers.thoughts import MARKERS
from evaluation.benchmarks import Conversation
from evaluation.engines import Engine
from evaluation.generation.generate import COMPLETIONS_FILE, ITEMS_FILE, generate
from evaluation.records import Record, read_records, read_repaired, write_whole
from evaluation.types import Item, Message, Progress, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# One seed for all models: their samples differ by the model alone.
_SEED = 0


def generate_turns(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase | None,
    items: Sequence[Item],
    benchmark: Conversation,
    max_new_tokens: int,
    output_dir: Path,
    progress: Progress,
    system_prompt: str | None = None,
    markers: Sequence[str] = MARKERS,
) -> None:
    """Writes items.jsonl and completions.jsonl into `output_dir`. Where an earlier call wrote them nothing is generated again.

    Raises:
        ValueError, RuntimeError: as `generate`.
    """
    answers: dict[str, list[str]] = {item["id"]: [] for item in items}
    records: list[Record] = []
    parts = output_dir / "parts"
    total, done = benchmark.NUM_TURNS * len(items), 0
    if _is_complete(output_dir, items, benchmark.NUM_TURNS):
        shutil.rmtree(parts, ignore_errors=True)
        progress(total, total, "")
        return

    def conversation(item: Item) -> list[Message]:
        return with_system_prompt(benchmark.messages(item, answers[item["id"]]), system_prompt)

    for turn in range(1, benchmark.NUM_TURNS + 1):
        found: dict[str, Record] = {}
        for temperature in sorted({benchmark.temperature(item) for item in items}):
            group = [item for item in items if benchmark.temperature(item) == temperature]
            folder = parts / f"{turn}-{temperature}"
            engine.reseed(_SEED + turn)
            sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
            generate(engine, tokenizer, group, conversation, sampling, folder, _onward(progress, done, total), markers=markers)
            done += len(group)
            found |= {record["id"]: record for record in read_repaired(folder / COMPLETIONS_FILE)}
        for item in items:
            record = found[item["id"]]
            answers[item["id"]].append(record["completion"])
            records.append({**record, "id": f"{item['id']}-{turn}", "question_id": item["id"], "turn": turn})
    write_whole(output_dir / ITEMS_FILE, items)
    # Last of all: a call after it takes it as it is.
    write_whole(output_dir / COMPLETIONS_FILE, records)
    shutil.rmtree(parts)
    progress(total, total, "")


def _is_complete(output_dir: Path, items: Sequence[Item], num_turns: int) -> bool:
    """Whether the files there have these items, and an answer to each turn."""
    turns = [(item["id"], turn) for turn in range(1, num_turns + 1) for item in items]
    try:
        answered = [(record["question_id"], record["turn"]) for record in read_records(output_dir / COMPLETIONS_FILE)]
        return answered == turns and list(read_records(output_dir / ITEMS_FILE)) == list(items)
    except (FileNotFoundError, ValueError, KeyError):
        return False


def _onward(progress: Progress, before: int, total: int) -> Progress:
    """The progress of one group as that of all."""

    def onward(done: int, _: int, note: str) -> None:
        progress(before + done, total, note)

    return onward
