"""`bnf chat` with real processes: an answer, the end of one, a refusal, and vLLM's pieces beside its whole completions."""

import os
import queue
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bnf.data.rendering import load_tokenizer, render_prompt
from evaluation.engines import open_engine
from evaluation.types import Sampling
from flows.commands import chatting
from flows.commands.chat_models import ChatModel, Event, Opening
from tasks.keys import ROOT
from tests.unit.flows.policy_runs import policy_run
from tests.unit.flows.test_chat import TEMPLATE, assistant, user

pytestmark = [pytest.mark.integration]
MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def base(tiny_model_dir, tmp_path_factory):
    """The tiny model with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "tiny"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture
def model(base, tmp_path):
    """A real process with the tiny model, ready to answer."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    model = ChatModel("aligned", Opening(base, "transformers", "2024-01-01"), events, tmp_path / "chat.log")
    assert events.get(timeout=60) == Event("aligned", "ready")
    yield model, events
    model.close()


def ended(events: queue.SimpleQueue[Event]) -> tuple[str, Event]:
    """An answer's text and its last event."""
    text = ""
    while (event := events.get(timeout=60)).kind == "text":
        text += event.text
    return text, event


def test_a_process_answers_stops_refuses_and_goes(model, base):
    process, events = model
    sampling = {"max_new_tokens": 12}
    process.ask([user("w5 w6")], sampling)
    engine = open_engine("transformers", base)
    [(_, [whole])] = engine.generate([render_prompt(load_tokenizer(base), [user("w5 w6")])], Sampling(12))
    assert ended(events) == (whole.completion, Event("aligned", "end", whole.finish_reason))
    process.ask([assistant("w5")], sampling)
    text, event = ended(events)
    assert (text, event.kind) == ("", "error") and "messages must end before the assistant's turn" in event.text
    process.ask([user("w7")], {"max_new_tokens": 100_000})
    process.stop()
    assert ended(events)[1].text in ("stopped", "stop")
    process._process.send_signal(signal.SIGKILL)
    assert ended(events)[1].kind == "gone" and "SIGKILL" in process.why_gone()


def test_a_model_that_cannot_be_loaded_says_why(tmp_path):
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    model = ChatModel("base", Opening(tmp_path / "nothing", "vllm", "2024-01-01"), events, tmp_path / "chat.log")
    try:
        with pytest.raises(RuntimeError, match=r"base was not loaded: .*nothing.*--model base and --model aligned load one"):
            chatting._ready(model, events)
    finally:
        model.close()
    assert "Traceback" in (tmp_path / "chat.log").read_text()


@pytest.mark.vllm
@pytest.mark.skipif(not MODEL.is_dir(), reason="the demonstration model is not there; make env fetches it")
def test_the_policy_answers_a_pipe_by_vllm(tmp_path):
    pytest.importorskip("vllm.version")
    home = tmp_path / "home"
    run = policy_run(home, MODEL, evaluation={"engine": "vllm", "max_new_tokens": 12, "max_model_len": 256})
    done = subprocess.run(
        [str(Path(sys.executable).parent / "bnf"), "chat", run.id, "--model", "aligned"],
        input="Count from 1 to 4.\nSay it in words.\n/undo\nSay it in words.\n/reset\nCount from 1 to 4.\n",
        env={**os.environ, "BNF_HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr + (run.folder / "logs" / "chat-aligned.log").read_text()
    counted, worded, undone, again, forgotten, anew = done.stdout.removeprefix("> ").strip().split("\n> ")
    assert counted.startswith("Count from 1 to 4.\naligned: ") and len(counted) > 40
    assert undone == "/undo\nlast turn taken back" and forgotten == "/reset\nforgotten"
    # Greedy: the same conversation has the same answer.
    assert worded == again and counted == anew
