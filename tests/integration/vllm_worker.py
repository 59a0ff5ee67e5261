"""What test_vllm_engine.py runs in processes of their own: vLLM's settings must be there before Python starts."""

import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from bnf.data.rendering import load_tokenizer, render_prompt
from data.sampling.sample import SampleConfig, sample_prompts
from evaluation.engines import open_engine
from evaluation.generation.generate import generate
from evaluation.generation.streaming import stream
from evaluation.types import Sampling

MODEL = Path(__file__).parents[2] / "models" / "SmolLM2-135M-Instruct"
PROMPTS = [
    {
        "id": f"p{n}",
        "messages": [{"role": "user", "content": f"Which number is larger, {n + 20} or {47 - n}?"}],
        "item": {},
        "held_out": False,
    }
    for n in range(20)
]


def config(seed: int) -> SampleConfig:
    """Two samples at each of two temperatures."""
    return SampleConfig("prompts", len(PROMPTS), 4, temperatures=[0.9, 0.6], top_p=1.0, max_new_tokens=12, seed=seed)


CHOICES = ["[[A>>B]]", "[[A=B]]", "[[B>>A]]"]


def killed(folder: Path) -> None:
    """Samples into `folder`, and dies by -9 when the second chunk begins."""

    def progress(done: int, total: int, note: str) -> None:
        if done > 0:
            os.kill(os.getpid(), signal.SIGKILL)

    engine = open_engine("vllm", MODEL, max_model_len=256)
    sample_prompts(engine, load_tokenizer(MODEL), PROMPTS, config(3), folder / "resumed", progress)


def resumed(folder: Path) -> None:
    """Ends what `killed` began, samples all of it again, and tries the rest of the engine."""
    started = time.monotonic()
    engine = open_engine("vllm", MODEL, max_model_len=256)
    report = {"start_s": time.monotonic() - started, "version": engine.version, "max_model_len": engine.max_model_len}
    tokenizer = load_tokenizer(MODEL)
    for name, seed in (("resumed", 3), ("whole", 3), ("other_seed", 4)):
        sample_prompts(engine, tokenizer, PROMPTS, config(seed), folder / name, _quiet)

    long = [render_prompt(tokenizer, PROMPTS[0]["messages"]), [5] * 256, [5] * 250]
    report["lengths"] = {index: asdict(found[0]) for index, found in engine.generate(long, Sampling(300))}
    judged = engine.generate(
        [render_prompt(tokenizer, prompt["messages"]) for prompt in PROMPTS], Sampling(32, choices=CHOICES)
    )
    report["choices"] = [found[0].completion for _, found in judged]

    report["likelihoods"] = dict(engine.loglikelihoods(likelihood_pairs(tokenizer)))
    counting = tokenizer("1 2 3 4 5 6 7 8 9 10 1 2")["input_ids"]
    for name, stop in (("unstopped", None), ("stopped", ["3"])):
        report[name] = next(engine.generate([counting], Sampling(8, stop=stop)))[1][0].completion

    engine.reseed(0)
    report["cached"] = _cached_tokens(engine, long[0])
    next(engine.generate([long[0]] * 4, Sampling(8)))  # a caller that stops early leaves nothing running
    report["completed"] = next(engine.generate([long[0]], Sampling(12)))[1][0].completion
    report["pieces"] = [asdict(piece) for piece in stream(engine, long[0], Sampling(12), lambda: False)]
    report["broken_off"] = [asdict(piece) for piece in stream(engine, long[0], Sampling(12), lambda: True)]
    engine.reseed(0)
    notes: list[str] = []
    items = [{"id": prompt["id"], "question": prompt["messages"][0]["content"]} for prompt in PROMPTS]
    generate(
        engine,
        tokenizer,
        items,
        lambda item: [{"role": "user", "content": item["question"]}],
        Sampling(12),
        folder / "greedy",
        lambda done, total, note: notes.append(note),
    )
    report["last_note"] = notes[-1]
    engine.close()
    (folder / "report.json").write_text(json.dumps(report))


def _cached_tokens(engine, prompt):
    """Of two requests with one prompt that begin together: how many of its tokens each takes from the other."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    both = [TokensPrompt(prompt_token_ids=prompt)] * 2
    found = engine.llm.generate(both, SamplingParams(temperature=0, max_tokens=1), use_tqdm=False)
    return [len(prompt), *(output.num_cached_tokens for output in found)]


def likelihood_pairs(tokenizer):
    """(context, continuation) in token ids: one that the model would write itself, one that it wouldn't, and one too long."""
    texts = [("The capital of France is", " Paris"), ("The capital of France is", " seventeen")]
    pairs = [(tokenizer(context)["input_ids"], tokenizer(text)["input_ids"]) for context, text in texts]
    return [*pairs, (tokenizer("one two three four " * 100)["input_ids"], tokenizer(" five")["input_ids"])]


def _quiet(done: int, total: int, note: str) -> None:
    pass


if __name__ == "__main__":
    {"killed": killed, "resumed": resumed}[sys.argv[1]](Path(sys.argv[2]))
