"""IFEval: prompts with one to three instructions each that a rule can check, such as "no commas" or "at least 300 words".

Dataset: google/IFEval, train (541 prompts with 834 instructions; locally its ifeval_input_data.jsonl). Metric: the reply follows all of
the prompt's instructions (upstream's strict prompt-level accuracy), by lm-eval's checkers. Beside it `prompt_loose`, and the shares of
all instructions, `instruction_strict` and `instruction_loose`. Pattern: the prompt as it stands, greedy; 8192 tokens leave room for
reasoning, where lm-eval has 1280. The checkers need NLTK's data punkt_tab, which no package brings. https://arxiv.org/abs/2311.07911
"""

from __future__ import annotations

from evaluation.answers.punkt import require_punkt
from evaluation.benchmarks._rows import Row, id_prefix, load_items
from evaluation.fields import FULL_TEXT, MAPPINGS, TEXTS, fault, shown
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
_LISTS = ("keywords", "forbidden_words")
# lm-eval's LANGUAGE_CODES (tasks/ifeval/instructions_util.py).
_LANGUAGES = (
    *("en", "es", "pt", "ar", "hi", "fr", "ru", "de", "ja", "it", "bn", "uk", "th", "ur", "ta"),
    *("te", "bg", "ko", "pl", "he", "fa", "vi", "ne", "sw", "kn", "mr", "gu", "pa", "ml", "fi"),
)


def load(source: str | None, limit: int | None) -> list[Item]:
    """The prompts, each with its `instructions` and their `arguments`; the hub's empty arguments are left out.

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where it is not in upstream's format, has an instruction that is not known, or lacks an argument.
    """
    prefix = id_prefix("ifeval", source)

    def to_item(row: Row) -> Item:
        instructions, kwargs = row.get("instruction_id_list", kind=list), row.get("kwargs", kind=list)
        key, question = row.id("key"), row.get("prompt", kind=str)
        if not instructions or len(instructions) != len(kwargs):
            raise row.error(
                "have kwargs for each of its instructions", f"{len(instructions)} instructions, {len(kwargs)} kwargs"
            )
        arguments = []
        for instruction, given in zip(instructions, kwargs, strict=True):
            if isinstance(given, dict):
                given = {name: value for name, value in given.items() if value is not None}
            if (wrong := _argument_fault(instruction, given)) is not None:
                raise row.refusal(wrong)
            arguments.append(given)
        return {
            "id": f"{prefix}-{key}",
            "question": question,
            "instructions": instructions,
            "arguments": arguments,
        }

    return load_items("ifeval", source, limit, HUB, NUM_ITEMS, to_item)


check = require_punkt


def item_fault(item: Item) -> str | None:
    """As the contract has it: texts, instructions that are known, and for each the arguments that it takes."""
    if wrong := fault(item, {"question": FULL_TEXT, "instructions": TEXTS, "arguments": MAPPINGS}):
        return wrong
    names, given = item["instructions"], item["arguments"]
    if not names or len(names) != len(given):
        return f"have arguments for each of its instructions, got {len(names)} instructions, {len(given)} arguments"
    return next((wrong for pair in zip(names, given, strict=True) if (wrong := _argument_fault(*pair))), None)


def messages(item: Item) -> list[Message]:
    """The prompt as the user's turn: the chat template's own system text stays."""
    return [{"role": "user", "content": item["question"]}]


def score(item: Item, completion: str, finish_reason: str) -> Verdict:
    """Right where every instruction is followed. `answer` says which are not. A reply that can't be checked in bounded time is wrong."""
    from evaluation.answers.instructions import LIMIT_S, followed

    names = item["instructions"]
    found = followed(names, item["arguments"], completion)
    strict, loose = ([False] * len(names), [False] * len(names)) if found is None else found
    metrics: dict[str, bool | float] = {
        "prompt_loose": all(loose),
        "instruction_strict": sum(strict) / len(names),
        "instruction_loose": sum(loose) / len(names),
    }
    weights = dict.fromkeys(("instruction_strict", "instruction_loose"), float(len(names)))
    if not completion.strip():
        return Verdict("no_answer", None, "none", metrics, weights)
    if found is None:
        answer = f"not checked: lm-eval's checkers failed, or took more than {LIMIT_S:.0f} s"
        return Verdict("wrong", answer, "unchecked", metrics, weights)
    missed = [name for name, kept in zip(names, strict, strict=True) if not kept]
    answer = f"{sum(strict)} of {len(names)} followed" + (f", not {', '.join(missed)}" if missed else "")
    return Verdict("wrong" if missed else "correct", answer, "instructions", metrics, weights)


def _argument_fault(instruction: object, given: object) -> str | None:
    """What is wrong with an instruction and its arguments: it is not known, or they are not those that it takes."""
    if not isinstance(instruction, str) or instruction not in ARGUMENTS:
        return f"have instructions of IFEval's {len(ARGUMENTS)}, got {instruction if isinstance(instruction, str) else shown(instruction)}"
    if not isinstance(given, dict):
        return f"have a mapping as the kwargs of {instruction}, got {given}"
    if set(given) != set(ARGUMENTS[instruction]) or not all(given.values()):
        return f"have {', '.join(ARGUMENTS[instruction]) or 'no arguments'} as the kwargs of {instruction}, got {given}"
    for name, value in given.items():
        if (rule := _value_fault(name, value)) is not None:
            return (
                f"have {rule} as the {'relation' if name.endswith('relation') else name} of {instruction}, got {shown(value)}"
            )
    if given.get("nth_paragraph", 0) > given.get("num_paragraphs", 0):
        return f"have nth_paragraph as at most num_paragraphs in the kwargs of {instruction}, got {given}"
    return None


def _value_fault(name: str, value: object) -> str | None:
    """What an argument must be, where it isn't."""
    if name.endswith("relation"):
        return None if value in _RELATIONS else " or ".join(_RELATIONS)
    if name.startswith(("num_", "nth_")) or name.endswith("frequency"):
        return None if type(value) is int and value > 0 else "a whole number from 1"
    if name in _LISTS:
        return None if isinstance(value, list) and all(map(FULL_TEXT.holds, value)) else "a list of texts that are not empty"
    if name == "language":
        return None if value in _LANGUAGES else f"one of {', '.join(_LANGUAGES)}"
    if name == "letter":
        return None if isinstance(value, str) and len(value) == 1 else "one character"
    return None if FULL_TEXT.holds(value) else FULL_TEXT.words
