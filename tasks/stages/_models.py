"""The model that the stages of one process generate with: it is loaded by the first of them."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.answers.thoughts import MARKERS
from evaluation.engines import Engine, is_remote, open_engine, opening_options
from evaluation.spending import Meter
from tasks.job import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def open_model(settings: Settings, model: Path | None) -> tuple[Engine, PreTrainedTokenizerBase | None]:
    """The engine of a node's settings with its model loaded, and the tokenizer; both are kept for the process's next job.

    An engine that is an endpoint has no tokenizer here.
    """
    decides = ("engine", "engine_placement", "ray", "date", "spending")
    return _open(json.dumps({name: settings[name] for name in decides if name in settings}, sort_keys=True), model)


def markers_of(settings: Settings, tokenizer: PreTrainedTokenizerBase | None) -> tuple[str, str]:
    """The texts between which the model's thoughts are, as `thought_markers` gives them; the stage's log says which."""
    from evaluation.generation.thinking import thought_markers

    given = settings.get("think_tokens")
    begin, end = thought_markers(tokenizer, given)
    why = (
        "as think_tokens has it"
        if given
        else "of which the tokenizer has the tokens"
        if (begin, end) != MARKERS
        else "as usual"
    )
    print(f"a thought is what is written between {begin} and {end}, {why}", flush=True)
    return begin, end


@functools.lru_cache(maxsize=1)
def _open(settings: str, model: Path | None) -> tuple[Engine, PreTrainedTokenizerBase | None]:
    from bnf.data.rendering import load_tokenizer

    given = json.loads(settings)
    engine = given["engine"]
    if is_remote(engine["name"]):
        limits = given.get("spending") or {}
        meter = Meter.of_run(limits.get("prices"), limits.get("max_usd"))
        told = {"chat_template_kwargs": engine["chat_template_kwargs"]} if "chat_template_kwargs" in engine else {}
        return open_engine(engine["name"], engine["model"], base_url=engine["base_url"], meter=meter, **told), None
    assert model is not None
    return open_engine(engine["name"], model, **opening_options(given)), load_tokenizer(model, given["date"])
