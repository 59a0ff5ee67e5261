"""What test_local_judge.py runs in processes of their own: a policy and a judge in vLLM; `killed` dies after some games."""

import json
import os
import signal
import sys
from pathlib import Path

from bnf.data.rendering import load_tokenizer
from evaluation.benchmarks import arena_hard
from evaluation.engines import open_engine
from evaluation.generation.generate import generate
from evaluation.judging.answers import Answers, completions_by_question
from evaluation.judging.client import ModelJudge
from evaluation.judging.run import judge
from evaluation.types import Sampling
from tests.integration.vllm_worker import MODEL

QUESTIONS = arena_hard.load("sample", 6)
BASELINE = Answers("recorded", {item["id"]: ["I don't know what to say to that."] for item in QUESTIONS})
KILLED_AFTER = 5


def run(folder: Path, *, mode: str = "choice", die: bool = False) -> None:
    """Answers the questions where they are not answered yet, and judges the answers."""

    def progress(done: int, total: int, note: str) -> None:
        if die and done >= KILLED_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)

    engine, tokenizer = open_engine("vllm", MODEL, max_model_len=2048), load_tokenizer(MODEL)
    answers = folder / "answers"
    generate(engine, tokenizer, QUESTIONS, arena_hard.messages, Sampling(24), answers, lambda done, total, note: None)
    records = [json.loads(line) for line in (answers / "completions.jsonl").read_text().splitlines()]
    for one in [mode] if die else [mode, "logprobs"]:
        judge(
            ModelJudge(engine, tokenizer, {"model": "SmolLM2"}, one),
            "pairwise",
            judge_name="SmolLM2",
            questions=QUESTIONS,
            models={"policy": Answers("policy", completions_by_question(records))},
            baseline=BASELINE,
            output_dir=folder / one,
            calls_file=folder / "calls.jsonl",
            progress=progress,
            demonstration=True,
        )
    engine.close()


if __name__ == "__main__":
    run(Path(sys.argv[2]), die=sys.argv[1] == "killed")
