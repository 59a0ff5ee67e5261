"""A model's completions of a benchmark's items: completions.jsonl, one line per item as it finishes.

Whatever was finished when the process was killed is kept and the rest is generated: no item is missing, none is there twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bnf.data.chat_template import RenderingError
from evaluation.answers.thoughts import MARKERS, begins_thought, ends_alone, noted
from evaluation.engines import Engine, Prompt
from evaluation.formats import duration
from evaluation.generation.completion_cache import CompletionCache
from evaluation.generation.thinking import check_markers, thinking_engine
from evaluation.progress import generating
from evaluation.records import Record, read_repaired, to_line, write_whole
from evaluation.types import Generation, Item, Items, Message, Progress, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COMPLETIONS_FILE = "completions.jsonl"
ITEMS_FILE = "items.jsonl"
LEFT_OUT_FILE = "left_out.json"


def generate(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase | None,
    items: Sequence[Item],
    messages_fn: Callable[[Item], list[Message]],
    sampling: Sampling,
    output_dir: Path,
    progress: Progress,
    cache: CompletionCache | None = None,
    markers: Sequence[str] = MARKERS,
) -> None:
    """Writes items.jsonl and completions.jsonl into `output_dir`: appended as items finish, in the items' order at the end.

    left_out.json says how many rows of the benchmark's source are no items, by reason. `tokenizer` may be None for an engine that
    takes messages. What `cache` has is not generated, and what is generated is put there. Where a completion has a thought between
    `markers`, its record says where the answer begins and, with a tokenizer, of how many tokens the thought is.

    Raises:
        ValueError: where a marker is no part of a text; where two items share an id, or `output_dir` holds completions of other items.
        RuntimeError: where the engine failed on some items; the others are kept, and a resume tries these again.
    """
    check_markers(tokenizer, markers)
    engine = thinking_engine(engine, tokenizer, markers)
    done = {record["id"] for record in begin(items, output_dir)}
    left = [item for item in items if item["id"] not in done]
    prompts, texts = rendered(engine, tokenizer, [messages_fn(item) for item in left], markers)
    failed: list[str] = []
    with (output_dir / COMPLETIONS_FILE).open("a", encoding="utf-8") as file:

        def keep(index: int, generation: Generation) -> None:
            record = {"id": left[index]["id"], "prompt": texts[index], **generation.to_json()}
            file.write(to_line(record | thought_of(tokenizer, texts[index], generation, markers)))
            file.flush()
            done.add(left[index]["id"])

        missing = []
        for index, prompt in enumerate(prompts):
            known = cache.get(prompt) if cache is not None else None
            if known is None:
                missing.append(index)
            else:
                keep(index, known)
        progress(len(done), len(items), "")
        started, num_tokens = time.monotonic(), 0
        for number, (place, (generation,)) in enumerate(engine.generate([prompts[i] for i in missing], sampling), start=1):
            index = missing[place]
            if generation.finish_reason.startswith("error"):
                failed.append(f"{left[index]['id']}: {generation.finish_reason}")
                continue
            keep(index, generation)
            if cache is not None:
                cache.put(prompts[index], generation)
            num_tokens += generation.num_completion_tokens
            elapsed_s = max(time.monotonic() - started, 1e-9)
            left_s = elapsed_s / number * (len(missing) - number)
            progress(len(done), len(items), generating(num_tokens, elapsed_s, number / len(missing), duration(left_s)))
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(items)} items failed, the others are kept; first {failed[0]}; run again to retry"
        )
    # The order of finishing depends on scheduling; the benchmark's own order makes equal texts equal files.
    records = {record["id"]: record for record in read_repaired(output_dir / COMPLETIONS_FILE)}
    in_order = [records[item["id"]] for item in items]
    write_whole(output_dir / COMPLETIONS_FILE, in_order if tokenizer is not None else with_begun_thoughts(in_order, markers))


def begin(items: Sequence[Item], output_dir: Path) -> list[Record]:
    """Writes items.jsonl and left_out.json, and gives the completions that an earlier try left in `output_dir`.

    Raises:
        ValueError: where two items share an id, or `output_dir` holds completions of other items.
    """
    ids = {item["id"] for item in items}
    if len(ids) != len(items):
        raise ValueError(f"items must have unique ids, got {len(items) - len(ids)} repeated; correct the benchmark's source")
    output_dir.mkdir(parents=True, exist_ok=True)
    there = read_repaired(output_dir / COMPLETIONS_FILE)
    if others := {record["id"] for record in there} - ids:
        raise ValueError(f"output_dir must hold completions of these items alone, got {min(others)!r} too; empty {output_dir}")
    write_whole(output_dir / ITEMS_FILE, items)
    write_whole(output_dir / LEFT_OUT_FILE, [dict(sorted(items.left_out.items())) if isinstance(items, Items) else {}])
    return there


def thought_of(
    tokenizer: PreTrainedTokenizerBase | None, prompt: str, generation: Generation, markers: Sequence[str]
) -> Record:
    """What the record says of a completion's thought."""
    found = noted(generation.completion, begun=begins_thought(prompt, markers), markers=markers)
    if not found or tokenizer is None:
        return dict(found)
    start = found["answer_start"]
    after = 0 if start is None else len(tokenizer(generation.completion[start:], add_special_tokens=False)["input_ids"])
    return {**found, "num_thought_tokens": max(0, generation.num_completion_tokens - after)}


def rendered(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase | None,
    conversations: Sequence[list[Message]],
    markers: Sequence[str],
) -> tuple[list[Prompt], list[str]]:
    """As `render`, of a benchmark's prompts.

    Raises:
        ValueError: where the model's chat template doesn't write them.
    """
    try:
        return render(engine, tokenizer, conversations, markers)
    except RenderingError as error:
        raise ValueError(
            f"model_name_or_path must have a chat template that writes the benchmark's prompts whole: {error}"
        ) from error


def with_begun_thoughts(records: Sequence[Record], markers: Sequence[str]) -> list[Record]:
    """An endpoint's completions: its template isn't known, and may begin the thoughts. Where most completions that ended by themselves have
    the end of a thought alone, it does: one that was cut off without an end is a thought that doesn't end."""
    whole = [record for record in records if record["finish_reason"] == "stop"]
    if 2 * sum(ends_alone(record["completion"], markers) for record in whole) <= len(whole):
        return list(records)
    return [
        record | noted(record["completion"], begun=True, markers=markers) if record["finish_reason"] == "length" else record
        for record in records
    ]


def render(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase | None,
    conversations: Sequence[list[Message]],
    markers: Sequence[str] = MARKERS,
) -> tuple[list[Prompt], list[str]]:
    """The conversations as `engine` takes them, and as text for the record. The model's template writes its own earlier answers, and
    may leave their reasoning out. Control tokens in the texts are spelled in ordinary tokens; the `markers` of the model's own thoughts are
    what it wrote.

    Raises:
        RenderingError: where the model's chat template refuses one of them, or doesn't write all of it.
    """
    if engine.takes == "messages":
        texts = ["\n\n".join(f"{message['role']}: {message['content']}" for message in messages) for messages in conversations]
        return list(conversations), texts
    assert tokenizer is not None
    from bnf.data.rendering import prompt_text, render_prompt

    return (
        [render_prompt(tokenizer, messages, own_turns="as_written", kept=markers) for messages in conversations],
        [prompt_text(tokenizer, messages, own_turns="as_written", kept=markers) for messages in conversations],
    )
