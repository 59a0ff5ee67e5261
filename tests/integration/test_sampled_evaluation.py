"""Several samples of each item from a real engine: a generation that was killed goes on to the records of one that was not, more samples
make only the missing ones, and the score counts items.
"""

import json
import os
import signal

import pytest

from evaluation.engines import environment
from evaluation.scoring.score import score_folder
from flows.dag.graph import build
from flows.recipe.config import make_recipe
from tasks.child import Child, StageFailed
from tasks.keys import ROOT
from tests.integration.vllm_worker import MODEL

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not MODEL.is_dir(), reason="the demonstration model is not there; make env fetches it"),
]
NUM_ITEMS = 18  # a chunk and a bit of the next


def generate(folder, engine, num_samples, *, kill=False):
    """Runs the stage in `folder`, an artifacts folder of its own, and gives its completions and its log."""
    recipe = make_recipe(
        {
            "name": "sampled",
            "model_name_or_path": str(MODEL.relative_to(ROOT)),
            "evaluation": {
                "engine": engine,
                "max_new_tokens": 6,
                "num_samples": num_samples,
                "temperature": 1.0,
                "top_p": 0.95,
                "benchmarks": {"capitals": {"limit": NUM_ITEMS}},
            },
        }
    )
    (node,) = [one for one in build(recipe) if one.stage == "generate"]
    output, log = folder / "generate" / f"of-{num_samples}", folder / "job.log"

    def end(done: int, total: int, note: str) -> None:
        # The first chunk is there, and the next one is under way.
        if kill and 16 <= done < total:
            os.kill(child._process.pid, signal.SIGKILL)

    child = Child(environment(engine), log, lambda text: None, end)
    try:
        child.run("tasks.stages.generate", node.settings, {"model": MODEL}, output, fingerprints={"model": "print"})
    finally:
        child.close()
    return [json.loads(line) for line in (output / "completions.jsonl").read_text().splitlines()], log.read_text()


@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_samples_of_a_real_engine(engine, tmp_path):
    if engine == "vllm":
        pytest.importorskip("vllm.version")
    whole, log = generate(tmp_path / "whole", engine, 2)
    assert [(one["id"], one["sample"]) for one in whole] == [
        (f"capitals-test-{n}", s) for n in range(NUM_ITEMS) for s in (0, 1)
    ]
    assert any(one["completion"] != other["completion"] for one, other in zip(whole[::2], whole[1::2], strict=True))
    assert "earlier generations" not in log

    with pytest.raises(StageFailed):
        generate(tmp_path / "killed", engine, 2, kill=True)
    file = tmp_path / "killed" / "generate" / "of-2" / "completions.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    assert 3 < len(lines) <= 2 * NUM_ITEMS
    # In the middle of a chunk, and of a line. What the cache has of it is as if it had not been written.
    file.write_bytes(b"".join(lines[: min(len(lines), 20) - 3]) + lines[0][:9])
    for cached in (tmp_path / "killed" / "completions").iterdir():
        cached.unlink()
    resumed, _ = generate(tmp_path / "killed", engine, 2)
    assert resumed == whole

    more, log = generate(tmp_path / "whole", engine, 3)
    assert f"{2 * NUM_ITEMS} of {3 * NUM_ITEMS} completions are those of earlier generations" in log
    assert [one for one in more if one["sample"] < 2] == whole

    drawn = {"num_samples": 3, "temperature": 1.0, "top_p": 0.95}
    made = tmp_path / "whole" / "generate" / "of-3"
    score = score_folder("capitals", made, tmp_path / "scored", source="own", limit=NUM_ITEMS, sampling=drawn)
    assert (score["n"], score["num_samples"], score["partial"]) == (NUM_ITEMS, 3, False)
    at_k = [score["at_k"][f"pass@{k}"]["value"] for k in (1, 2, 3)]
    assert at_k == sorted(at_k) and at_k[0] == pytest.approx(score["accuracy"])
