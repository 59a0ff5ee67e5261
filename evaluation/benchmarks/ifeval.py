"""IFEval: prompts with one to three instructions each that a rule can check, such as "no commas" or "at least 300 words".

Dataset: google/IFEval, train (541 prompts with 834 instructions; locally its ifeval_input_data.jsonl). Metric: the reply follows all of
the prompt's instructions (upstream's strict prompt-level accuracy), by lm-eval's checkers. Beside it `prompt_loose`, and the shares of
all instructions, `instruction_strict` and `instruction_loose`. Pattern: the prompt as it stands, greedy; 8192 tokens leave room for
reasoning, where lm-eval has 1280. The checkers need NLTK's data punkt_tab, which no package brings. https://arxiv.org/abs/2311.07911
"""

from __future__ import annotations

from evaluation.answers.punkt import require_punkt
from evaluation.benchmarks._rows import Row, id_prefix, load_items
from evaluation.types import Hub, Item, Message, Verdict

TITLE = "IFEval"
NUM_ITEMS = 541
MAX_NEW_TOKENS = 8192
HAS_MAJORITY = False

HUB = Hub("google/IFEval", [None], split="train")
# The arguments of each instruction: what is missing a checker would draw at random.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "change_case:capital_word_frequency": ("capital_frequency", "capital_relation"),
    "change_case:english_capital": (),
    "change_case:english_lowercase": (),
    "combination:repeat_prompt": ("prompt_to_repeat",),
    "combination:two_responses": (),
    "detectable_content:number_placeholders": ("num_placeholders",),
    "detectable_content:postscript": ("postscript_marker",),
    "detectable_format:constrained_response": (),
    "detectable_format:json_format": (),
    "detectable_format:multiple_sections": ("section_spliter", "num_sections"),
    "detectable_format:number_bullet_lists": ("num_bullets",),
    "detectable_format:number_highlighted_sections": ("num_highlights",),
    "detectable_format:title": (),
    "keywords:existence": ("keywords",),
    "keywords:forbidden_words": ("forbidden_words",),
    "keywords:frequency": ("keyword", "frequency", "relation"),
    "keywords:letter_frequency": ("letter", "let_frequency", "let_relation"),
    "language:response_language": ("language",),
    "length_constraints:nth_paragraph_first_word": ("num_paragraphs", "nth_paragraph", "first_word"),
    "length_constraints:number_paragraphs": ("num_paragraphs",),
    "length_constraints:number_sentences": ("num_sentences", "relation"),
    "length_constraints:number_words": ("num_words", "relation"),
    "punctuation:no_comma": (),
    "startend:end_checker": ("end_phrase",),
    "startend:quotation": (),
}
_RELATIONS = ("less than", "at least")


def load(source: str | None, limit: int | None) -> list[Item]:
    """The prompts, each with its `instructions` and their `arguments`; the hub's empty arguments are left out.

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where it is not in upstream's format, has an instruction that is not known, or lacks an argument.
    """
    prefix = id_prefix("ifeval", source)

    def to_item(row: Row) -> Item:
        instructions, kwargs = row.get("instruction_id_list", kind=list), row.get("kwargs", kind=list)
        if not instructions or len(instructions) != len(kwargs):
            raise row.error(
                "have kwargs for each of its instructions", f"{len(instructions)} instructions, {len(kwargs)} kwargs"
            )
        return {
            "id": f"{prefix}-{row.id('key')}",
            "question": row.get("prompt", kind=str),
            "instructions": instructions,
            "arguments": [_arguments(row, name, given) for name, given in zip(instructions, kwargs, strict=True)],
        }

    return load_items("ifeval", source, limit, HUB, NUM_ITEMS, to_item)


check = require_punkt


def messages(item: Item) -> list[Message]:
    """The prompt as the user's turn: the chat template's own system text stays."""
    return [{"role": "user", "content": item["question"]}]


def score(item: Item, completion: str, finish_reason: str) -> Verdict:
    """Right where every instruction is followed. `answer` says which are not."""
    from evaluation.answers.instructions import followed

    names = item["instructions"]
    strict, loose = followed(names, item["arguments"], completion)
    metrics: dict[str, bool | float] = {
        "prompt_loose": all(loose),
        "instruction_strict": sum(strict) / len(names),
        "instruction_loose": sum(loose) / len(names),
    }
    weights = dict.fromkeys(("instruction_strict", "instruction_loose"), float(len(names)))
    if not completion.strip():
        return Verdict("no_answer", None, "none", metrics, weights)
    missed = [name for name, kept in zip(names, strict, strict=True) if not kept]
    answer = f"{sum(strict)} of {len(names)} followed" + (f", not {', '.join(missed)}" if missed else "")
    return Verdict("wrong" if missed else "correct", answer, "instructions", metrics, weights)


def _arguments(row: Row, instruction: object, given: object) -> dict[str, object]:
    """The instruction's arguments; raises ValueError where it is not known, or they are not those that it takes."""
    if not isinstance(instruction, str) or instruction not in ARGUMENTS:
        raise row.error(f"have instructions of IFEval's {len(ARGUMENTS)}", instruction)
    if not isinstance(given, dict):
        raise row.error(f"have a mapping as the kwargs of {instruction}", given)
    found = {name: value for name, value in given.items() if value is not None}
    if set(found) != set(ARGUMENTS[instruction]) or not all(found.values()):
        raise row.error(f"have {', '.join(ARGUMENTS[instruction]) or 'no arguments'} as the kwargs of {instruction}", given)
    relations = [value for name, value in found.items() if name.endswith("relation")]
    if not set(relations) <= set(_RELATIONS):
        raise row.error(f"have {' or '.join(_RELATIONS)} as the relation of {instruction}", relations)
    return found
