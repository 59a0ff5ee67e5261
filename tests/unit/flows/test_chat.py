"""`bnf chat`: what a conversation holds, where models have room, and the answers of a real model, piece by piece."""

import contextlib
import io
import os
import pty
import queue
import select
import shutil
import signal
import sys
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bnf.data.rendering import load_tokenizer, render_prompt
from evaluation.engines import open_engine
from evaluation.generation.streaming import stream
from evaluation.types import Sampling
from flows.commands import chatting
from flows.commands.chat_models import Event, Opening, openings
from flows.commands.chat_screen import Screen
from flows.commands.chatting import Talk, chat, max_new_tokens
from flows.display import Display
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from tasks.keys import code_digests
from tasks.stages import in_order
from tests.unit.flows.policy_runs import policy_run

TEMPLATE = "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} w3 {% endfor %}w4"
GIB = 1 << 30


@pytest.fixture(scope="module")
def base(tiny_model_dir, tmp_path_factory):
    """The tiny model with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "tiny"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_each_model_has_a_history_of_its_own():
    talk = Talk(["base", "aligned"])
    talk.answered("base", "one", "b1")
    talk.answered("aligned", "one", "a1")
    talk.answered("aligned", "two", "a2")  # the base model's second turn failed
    assert talk.asked("base", "three") == [user("one"), assistant("b1"), user("three")]
    assert talk.command("/system Be brief.") == "system prompt set; what was said stays, /reset forgets it"
    system = {"role": "system", "content": "Be brief."}
    assert talk.asked("aligned", "x")[0] == system
    talk.command("/undo")
    assert talk.asked("aligned", "x") == [system, user("one"), assistant("a1"), user("x")]
    assert talk.asked("base", "x") == [system, user("one"), assistant("b1"), user("x")]
    assert talk.command("/reset") == "forgotten" and talk.asked("base", "x") == [system, user("x")]
    assert talk.command("/undo") == "nothing to take back"
    assert talk.command("/system") == "no system prompt" and talk.asked("base", "x") == [user("x")]
    assert "/etc/hosts is no command; the commands are /system TEXT" in talk.command("/etc/hosts what?")


def model_of(folder: Path, name: str, num_bytes: int) -> Path:
    """A folder with weights of this size, which take no room on the disk."""
    (folder / name).mkdir()
    with (folder / name / "model.safetensors").open("wb") as file:
        file.truncate(num_bytes)
    return folder / name


def test_two_models_that_do_not_fit_are_refused_and_one_alone_is_not(tmp_path):
    both = {name: model_of(tmp_path, name, 10 * GIB) for name in ("base", "aligned")}
    message = (
        "--model must be base or aligned where both models don't fit at once, got both, which need about 27.9 GB, and 21.5 GB"
    )
    with pytest.raises(RecipeError, match=message):
        openings(both, "transformers", "2024-01-01", {}, [], 20 * GIB)
    assert openings(both, "transformers", "2024-01-01", {}, [], 30 * GIB).keys() == both.keys()
    alone = {"base": both["base"]}
    assert openings(alone, "transformers", "2024-01-01", {}, [], GIB) == {
        "base": Opening(both["base"], "transformers", "2024-01-01")
    }


def test_on_gpus_each_model_has_its_own_or_a_share_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    both = {name: model_of(tmp_path, name, 16 * GIB) for name in ("base", "aligned")}
    apart = openings(both, "vllm", "2024-01-01", {"tensor_parallel_size": 2}, [80 * GIB] * 4, None)
    assert [one.variables for one in apart.values()] == [{"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": "6,7"}]
    assert apart["base"].options == {"tensor_parallel_size": 2}

    shared = openings(both, "vllm", "2024-01-01", {}, [80 * GIB], None)
    assert [one.options for one in shared.values()] == [{"max_model_len": -1, "gpu_memory_utilization": 0.45}] * 2
    with pytest.raises(RecipeError, match=r"there are 42.9 GB, of which each would have 19.3 GB; take one of them"):
        openings(both, "vllm", "2024-01-01", {}, [40 * GIB], None)


def test_the_length_of_an_answer_is_that_of_the_evaluation():
    def length(**evaluation: Any) -> int:
        return max_new_tokens(make_recipe({"name": "n", "model_name_or_path": "m", "evaluation": evaluation}))

    assert length() == 1024
    assert length(benchmarks=["number_comparison"], max_new_tokens=9) == 9
    assert length(benchmarks=["gsm8k", "crux"]) == max(length(benchmarks=["gsm8k"]), length(benchmarks=["crux"]))


def test_an_answer_in_pieces_is_the_engines_own(base):
    engine, tokenizer = open_engine("transformers", base), load_tokenizer(base)
    for text in ("w5 w6", "w7"):
        ids = render_prompt(tokenizer, [user(text)])
        [(_, [whole])] = engine.generate([ids], Sampling(12))
        pieces = list(stream(engine, ids, Sampling(12), lambda: False))
        assert "".join(piece.text for piece in pieces) == whole.completion and whole.completion
        assert [piece.finish_reason for piece in pieces if piece.finish_reason] == [whole.finish_reason]
    asked: Iterator[bool] = iter([False, False, *[True] * 99])
    stopped = list(stream(engine, ids, Sampling(12), lambda: next(asked)))
    assert stopped[-1].finish_reason == "stopped"
    assert whole.completion.startswith(read := "".join(piece.text for piece in stopped)) and read != whole.completion
    [full] = stream(engine, [5] * 5000, Sampling(12), lambda: False)
    assert full.finish_reason == "prompt_too_long"


def test_what_streams_is_part_of_no_key():
    code = {module for stage in in_order() for module in code_digests([f"tasks.stages.{stage}"])}
    assert "evaluation.generation.generate" in code
    assert not code & {"evaluation.generation.streaming", "evaluation.generation.answering"}


class Answering:
    """Stands in for a model's process: it answers with what it was told."""

    opened: Sequence["Answering"] = ()

    def __init__(self, name: str, opening: Opening, events: queue.SimpleQueue[Event], log_path: Path) -> None:
        self.name, self.opening, self.events, self.log_path, self.asked, self.closed = (
            name,
            opening,
            events,
            log_path,
            [],
            False,
        )
        Answering.opened = [*Answering.opened, self]
        events.put(Event(name, "ready"))

    def ask(self, messages: list[dict[str, str]], sampling: dict[str, Any]) -> None:
        self.asked.append(messages)
        told = messages[-1]["content"]
        if told == "fail":
            self.events.put(Event(self.name, "error", "RenderingError: the template refuses it"))
            return
        for word in (f"{self.name} ", f"{len(messages)} "):
            self.events.put(Event(self.name, "text", word))
        self.events.put(Event(self.name, "text", f"\x1b[31m{told}"))
        self.events.put(Event(self.name, "end", "length" if told == "long" else "stop"))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("BNF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(chatting, "ChatModel", Answering)
    monkeypatch.setattr(Answering, "opened", ())
    return tmp_path / "home"


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: str, text: str, which: str = "both") -> str:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    chat(run, which, None)
    return capsys.readouterr().out


def test_lines_of_a_pipe_are_answered_by_both_models(home, base, monkeypatch, capsys):
    run = policy_run(home, base, evaluation={"engine": "transformers", "max_new_tokens": 7})
    out = said(monkeypatch, capsys, run.id, "one\n\n fail\nlong\n/undo\n/system Be brief.\ntwo\n/quit\nthree\n")
    assert out.splitlines() == [
        *("> one", "base: base 1 ␛[31mone", "aligned: aligned 1 ␛[31mone"),
        *("> fail", "base:  [RenderingError: the template refuses it]", "aligned:  [RenderingError: the template refuses it]"),
        "> long",
        *(f"{name}: {name} 3 ␛[31mlong [cut at 7 tokens, or where the model's context ends]" for name in ("base", "aligned")),
        *(
            "> /undo",
            "last turn taken back",
            "> /system Be brief.",
            "system prompt set; what was said stays, /reset forgets it",
        ),
        *("> two", "base: base 4 ␛[31mtwo", "aligned: aligned 4 ␛[31mtwo", "> /quit"),
    ]
    of_base, of_aligned = Answering.opened
    assert of_base.opening.folder == base and of_aligned.opening.folder == run.artifacts["train"].path / "policy"
    assert of_base.closed and of_aligned.closed


@pytest.mark.parametrize(("given", "expected"), [(None, ["Be brief."]), ("Be kind.", ["Be kind."]), ("", [])])
def test_the_recipes_system_prompt_counts_where_none_is_given(given, expected, home, base, monkeypatch):
    run = policy_run(home, base, system_prompt="Be brief.", evaluation={"engine": "transformers"})
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n"))
    chat(run.id, "base", given)
    (messages,) = Answering.opened[0].asked
    assert [message["content"] for message in messages if message["role"] == "system"] == expected


def test_the_first_of_several_models_streams_and_the_others_follow(capsys):
    with Screen().answers(["base", "aligned"]) as shown:
        shown.add("aligned", "second ")
        shown.add("base", "first")
        assert capsys.readouterr().out == "base: first"
        shown.end("aligned", "")
        shown.end("base", "stopped")
    assert capsys.readouterr().out == " [stopped]\naligned: second \n"


def test_a_wide_terminal_shows_models_side_by_side(capsys):
    screen = Screen()
    written = io.StringIO()
    screen.console = Console(file=written, force_terminal=True, width=120, color_system=None)
    with screen.answers(["base", "aligned"]) as shown:
        shown.add("base", "left " * 20)
        shown.add("aligned", "right")
        shown.end("base", "")
        shown.end("aligned", "stopped")
    last = written.getvalue().rpartition("base")[2]
    assert "aligned" in last.splitlines()[0]
    assert last.splitlines()[1].startswith("left left") and "right [stopped]" in last.splitlines()[1]
    assert capsys.readouterr().out == ""


def test_one_model_alone_answers(home, base, monkeypatch, capsys):
    run = policy_run(home, base, evaluation={"engine": "transformers"})
    assert said(monkeypatch, capsys, run.id, "one\n", "aligned").splitlines() == ["> one", "aligned: aligned 1 ␛[31mone"]
    assert len(Answering.opened) == 1


class Talkative(Answering):
    """It writes until it is stopped, so many words at a time."""

    words = 20

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.stopped = threading.Event()

    def ask(self, messages: list[dict[str, str]], sampling: dict[str, Any]) -> None:
        self.stopped.clear()
        threading.Thread(target=self._write, args=(len(messages),), daemon=True).start()

    def _write(self, number: int) -> None:
        self.events.put(Event(self.name, "text", f"messages={number} "))
        while not self.stopped.wait(0.001):
            self.events.put(Event(self.name, "text", "word " * Talkative.words))
        self.events.put(Event(self.name, "end", "stopped"))

    def stop(self) -> None:
        self.stopped.set()


@pytest.mark.parametrize(("which", "columns", "last"), [("aligned", 80, "\x03"), ("both", 120, "\x04")])
def test_ctrl_c_ends_the_answer_that_prints_and_between_answers_the_chat(home, base, monkeypatch, which, columns, last):
    monkeypatch.setattr(chatting, "ChatModel", Talkative)
    # More than a terminal holds. To draw columns anew takes longer than to write them.
    monkeypatch.setattr(Talkative, "words", 500 if which == "aligned" else 20)
    run = policy_run(home, base, evaluation={"engine": "transformers"})
    child, terminal = pty.fork()
    if child == 0:
        status = 1
        try:
            sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
            os.environ.pop("COLUMNS", None)
            os.environ["TERM"] = "xterm"
            termios.tcsetwinsize(1, (24, columns))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            chat(run.id, which, None)
            status = 0
        finally:
            os._exit(status)

    shown = ""

    def read(until: str) -> None:
        """Read what the terminal shows up to a text."""
        nonlocal shown
        while until not in shown:
            assert select.select([terminal], [], [], 20)[0], shown[-2000:]
            shown += os.read(terminal, 1 << 16).decode(errors="replace")
        shown = shown.partition(until)[2]

    def write(text: str) -> None:
        os.write(terminal, text.encode())

    read("> ")
    for turn in (1, 3):
        write(f"say {turn}\r")
        read(f"messages={turn} ")
        # Nobody reads, so that the chat is in the midst of printing.
        time.sleep(0.1)
        write("\x03")
        read("[stopped]")
        read("> ")
    write(last)
    with contextlib.suppress(OSError):  # the terminal is gone
        while os.read(terminal, 1 << 16):
            pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_engine_that_is_an_endpoint_is_replaced_by_one_here_and_said(home, base, monkeypatch, capsys):
    monkeypatch.setattr(chatting, "local_engine", lambda: "transformers")
    run = policy_run(home, base, evaluation={"engine": "openai", "base_url": "http://x/v1", "model": "m"})
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    chat(run.id, "both", None)
    assert "evaluated by openai, an endpoint; transformers answers" in capsys.readouterr().err
    assert {one.opening.engine for one in Answering.opened} == {"transformers"}


def test_a_base_model_that_is_gone_or_changed_is_said(home, base, tmp_path, monkeypatch, capsys):
    own = tmp_path / "base"
    shutil.copytree(base, own)
    run = policy_run(home, own, evaluation={"engine": "transformers"})
    (own / "chat_template.jinja").write_text(TEMPLATE + " ")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    chat(run.id, "base", None)
    assert "this base model is another than the one that was aligned" in capsys.readouterr().err
    shutil.rmtree(own)
    with pytest.raises(RecipeError, match=r"must have its base model, got none \(.*/base.*\); .* --model aligned"):
        chat(run.id, "both", None)
    chat(run.id, "aligned", None)


def test_a_run_without_a_policy_answers_as_its_base_model(home, base, monkeypatch, capsys):
    run = policy_run(home, base, evaluation={"engine": "transformers"})
    del run.record.tasks["train"]
    run.save()
    assert said(monkeypatch, capsys, run.id, "one\n").splitlines() == ["> one", "base: base 1 ␛[31mone"]
    with pytest.raises(RecipeError, match="--model must be base where a run has no policy, got aligned"):
        chat(run.id, "aligned", None)


def test_what_is_loaded_is_said_until_it_is_there(home, base, monkeypatch, capsys):
    said_on_the_terminal: list[str] = []
    monkeypatch.setattr(Display, "wait", lambda self, text: said_on_the_terminal.append(text))
    monkeypatch.setattr(Display, "stop", lambda self: said_on_the_terminal.append("stop"))
    run = policy_run(home, base, evaluation={"engine": "transformers"})
    said(monkeypatch, capsys, run.id, "one\n")
    assert said_on_the_terminal[:4] == ["loading base …", "stop", "loading aligned …", "stop"]
