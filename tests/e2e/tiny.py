"""Runs that take seconds: of a random model of a million weights, its data, and a judge that waits until it is told to answer."""

import json
import shutil
import threading
from pathlib import Path

from tests.e2e.conftest import MODEL, Bnf
from tests.stub_server import StubServer

RECIPE = (
    *("run", "flows/recipes/pairs.yaml", "name=tiny", "train.max_steps=1", "train.learning_rate=1e-2"),
    *("evaluation.engine=transformers", "evaluation.max_new_tokens=16"),
    "evaluation.benchmarks={number_comparison: {limit: 4}}",
)


def plain(trained: Path) -> tuple[str, ...]:
    return (*RECIPE, f"model_name_or_path={trained}/tiny", f"data.path={trained}/mine.jsonl")


def judged(trained: Path, server: StubServer) -> tuple[str, ...]:
    """Two judged benchmarks; the second one is generated while the first is judged."""
    benchmarks = "{arena_hard: {source: sample, limit: 1}, mt_bench: {source: sample, limit: 3}}"
    return (
        *plain(trained),
        f"judge={{engine: openai, model: stub-judge, base_url: {server.url}, max_new_tokens: 64, benchmarks: {benchmarks}}}",
    )


def judged_model(folder: Path, server: StubServer) -> tuple[str, ...]:
    """One judged benchmark of the model itself: nothing is trained."""
    judge = f"{{engine: openai, model: stub-judge, base_url: {server.url}, max_new_tokens: 8"
    return (
        *("evaluate", f"{folder}/tiny", "evaluation.engine=transformers", "evaluation.benchmarks={}"),
        f"judge={judge}, benchmarks: {{mt_bench: {{source: sample, limit: 1}}}}}}",
    )


class Judge:
    """Says the same of every answer, once `answers` is set."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()

    def __call__(self, messages: list[dict[str, str]], attempt: int) -> str:
        self.answers.wait(timeout=300)
        return "[[A=B]] [[5]]"


def make_inputs(folder: Path) -> None:
    """The model and the data of `plain`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    (folder / "tiny").mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(MODEL / file, folder / "tiny")
    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    ids = {"vocab_size": 49152, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": True}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**shape, **ids)).to(torch.bfloat16).save_pretrained(folder / "tiny")
    rows = [{"prompt": f"Say {n}.", "chosen": f"{n}", "rejected": f"No. {n} {n}"} for n in range(8)]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def new_home(trained: Path, folder: Path, **environment: str) -> Bnf:
    shutil.copytree(trained / "state" / "artifacts", folder / "state" / "artifacts", symlinks=True)
    return Bnf(folder, **environment)
