"""Thoughts with a limit, by the demonstration model in transformers and in vLLM: both requests together are one completion."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bnf.data.rendering import load_tokenizer, render_prompt
from evaluation.engines import environment, open_engine
from evaluation.generation.thinking import ThinkingEngine
from evaluation.types import Sampling
from tests.integration.vllm_worker import MODEL

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not MODEL.is_dir(), reason="the demonstration model is not there; make env fetches it"),
]
MARKERS = ("<think>", "</think>")
ASKED = Sampling(24)


def generated(name: str) -> dict[str, list]:
    """What an engine gives with a limit of 8, of plain prompts and of prompts that end with the beginning of a thought; the same by two
    requests; and of the plain ones in one."""
    tokenizer = load_tokenizer(MODEL)
    engine = open_engine(name, MODEL, max_model_len=256)

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    plain = [render_prompt(tokenizer, [{"role": "user", "content": f"Name {what}."}]) for what in ("a city", "two rivers")]
    prompts = [*plain, *([*prompt, *ids("<think>\n")] for prompt in plain)]
    limited = dict(ThinkingEngine(engine, tokenizer, MARKERS, 8).generate(prompts, ASKED))
    first = dict(engine.generate(prompts, dataclasses.replace(ASKED, max_new_tokens=8)))
    parts = []
    for indices, added in (((0, 1), []), ((2, 3), ids("\n</think>"))):
        longer = [[*prompts[index], *first[index][0].token_ids, *added] for index in indices]
        rest = dict(engine.generate(longer, dataclasses.replace(ASKED, max_new_tokens=ASKED.max_new_tokens - 8 - len(added))))
        parts += [[*first[index][0].token_ids, *added, *rest[number][0].token_ids] for number, index in enumerate(indices)]
    whole = dict(engine.generate(plain, ASKED))
    engine.close()
    return {
        "limited": [dataclasses.asdict(limited[index][0]) for index in range(4)],
        "parts": parts,
        "texts": [tokenizer.decode(one, skip_special_tokens=True) for one in parts],
        "whole": [dataclasses.asdict(whole[index][0]) for index in range(2)],
    }


@pytest.mark.parametrize("name", ["transformers", "vllm"])
def test_a_completion_of_two_requests_is_the_models_own_but_for_the_end_of_its_thought(name):
    pytest.importorskip(f"{name}.version" if name == "vllm" else name)
    command = [sys.executable, "-m", "tests.integration.test_thinking_engine", name]
    ended = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=os.environ | environment(name), capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert [one["token_ids"] for one in found["limited"]] == found["parts"]
    assert [one["completion"] for one in found["limited"]] == found["texts"]
    assert [one["is_thought_cut"] for one in found["limited"]] == [False, False, True, True]
    assert all("\n</think>" in text for text in found["texts"][2:])
    assert all(one["num_completion_tokens"] == len(one["token_ids"]) <= 24 for one in found["limited"])
    if name == "vllm":
        # In transformers a batch's padding, and a prompt in the place of tokens that were generated, round otherwise in bfloat16.
        assert found["limited"][:2] == [{**one, "is_thought_cut": False} for one in found["whole"]]


if __name__ == "__main__":
    print(json.dumps(generated(sys.argv[1])))
