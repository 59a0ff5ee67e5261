"""Opens a judge from a stage's or a labeler's settings."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

from evaluation import engines
from evaluation.engines import Engine
from evaluation.judging.client import Judge, ModelJudge, RewardJudge
from evaluation.judging.reward_model import RewardModel
from evaluation.records import Record
from evaluation.spending import Meter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def open_judge(settings: Record, folder: Path | None, fingerprint: str | None) -> Judge:
    """The judge, with its model loaded once per process.

    Args:
        settings: `engine` (name and, of an endpoint, base_url, model, api), `verdict`, `max_judgment_tokens` and, where the recipe says
            them, `think_tokens`; of an endpoint also `connection` and `spending`, of a model that runs here `date` and, where the recipe
            says it, `engine_placement`.
        folder: Of a model that runs here.
        fingerprint: Of that folder's content, so that another model there is another judge.
    """
    engine, think_tokens = settings["engine"], settings.get("think_tokens")
    if engine["name"] == "reward_model":
        assert folder is not None
        scorer = _reward_model(folder, settings["date"], tuple(engines.opening_options(settings).items()))
        return RewardJudge(scorer, {"reward_model": fingerprint, "date": settings["date"]})
    if engine["name"] == "openai":
        connected, meter = _connected(json.dumps([engine, settings["connection"], settings["spending"]], sort_keys=True))
        told = {name: engine[name] for name in ("chat_template_kwargs",) if name in engine}
        identity = {"model": engine["model"], "base_url": engine["base_url"], **told}
        return ModelJudge(connected, None, identity, settings["verdict"], settings["max_judgment_tokens"], meter, think_tokens)
    assert folder is not None
    opened, tokenizer = _loaded(engine["name"], folder, settings["date"], tuple(engines.opening_options(settings).items()))
    # What decides its replies; where it computes is not among it.
    decides = {name: engine[name] for name in ("version", "max_model_len") if name in engine}
    identity = {"model": fingerprint, "engine": engine["name"], **decides, "date": settings["date"]}
    said = settings["verdict"], settings["max_judgment_tokens"]
    return ModelJudge(opened, tokenizer, identity, *said, think_tokens=think_tokens)


def environment(engine_name: str) -> dict[str, str]:
    """The variables that must be set before the process that opens the judge starts."""
    # A reward model runs in transformers.
    return engines.environment("transformers" if engine_name == "reward_model" else engine_name)


@functools.lru_cache(maxsize=1)
def _loaded(
    name: str, folder: Path, date: str, options: tuple[tuple[str, object], ...]
) -> tuple[Engine, PreTrainedTokenizerBase]:
    from bnf.data.rendering import load_tokenizer

    return engines.open_engine(name, folder, **dict(options)), load_tokenizer(folder, date)


@functools.lru_cache(maxsize=1)
def _reward_model(folder: Path, date: str, options: tuple[tuple[str, object], ...]) -> RewardModel:
    given = dict(options)
    return RewardModel(
        folder, date=date, num_replicas=cast(int, given.get("num_replicas", 1)), ray=cast(str | None, given.get("ray"))
    )


@functools.lru_cache(maxsize=1)
def _connected(settings: str) -> tuple[Engine, Meter]:
    engine, connection, spending = json.loads(settings)
    meter = Meter.of_run(spending["prices"], spending["max_usd"])
    meter.price(engine["model"])
    told = {name: engine[name] for name in ("chat_template_kwargs",) if name in engine}
    options = {**connection, "base_url": engine["base_url"], "api": engine["api"], "meter": meter, **told}
    return engines.open_engine("openai", engine["model"], **options), meter
