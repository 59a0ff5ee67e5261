"""`bnf chat`: a run's base and aligned model answer in the terminal, each with a conversation of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from bnf.host import available_memory
from bnf.model.device import devices
from bnf.parallel.share import end_all
from bnf.plugins import load
from evaluation.benchmarks import BENCHMARKS
from evaluation.engines import ENGINES, is_remote
from evaluation.records import Record
from evaluation.types import Message, Sampling
from flows.commands.chat_models import ChatModel, Event, openings
from flows.commands.chat_screen import Screen
from flows.commands.showing import taken_run
from flows.display import Display
from flows.errors import RecipeError
from flows.recipe.config import Recipe
from flows.recipe.engine_options import local_engine
from flows.runs.home import home_folder, open_store
from flows.runs.policy import BASE, policy_of, unfinished_rounds
from flows.runs.record import Need, Run
from tasks.home_lock import using
from tasks.nodes import model_folder
from tasks.store import Store

# Where a recipe evaluates nothing, and so says no length.
_MAX_NEW_TOKENS = 1024
_COMMANDS = "/system TEXT, /reset, /undo, /quit"
_MODELS = Need("models", lambda run: BASE in run.artifacts)
# Options of an engine that share prompts out, of which a chat has one.
_NOT_TAKEN = frozenset({"num_replicas"})


@dataclass
class Talk:
    """The conversations: the system prompt, and what was said with each model."""

    models: Sequence[str]
    system: str | None = None
    said: dict[str, list[Message]] = field(default_factory=dict)

    def asked(self, model: str, text: str) -> list[Message]:
        """The messages of a model's next turn."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.said.get(model, []), {"role": "user", "content": text}]

    def answered(self, model: str, text: str, answer: str) -> None:
        turn = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        self.said.setdefault(model, []).extend(turn)

    def command(self, line: str) -> str:
        """Do what a line that begins with `/` says; what to answer it."""
        word, _, rest = line.partition(" ")
        if word == "/system":
            self.system = rest.strip() or None
            return "system prompt set; what was said stays, /reset forgets it" if self.system else "no system prompt"
        if word == "/reset":
            self.said.clear()
            return "forgotten"
        if word == "/undo":
            if not any(self.said.values()):
                return "nothing to take back"
            longest = max(map(len, self.said.values()))
            # A model whose last turn failed has one fewer.
            self.said = {name: turns[: longest - 2] for name, turns in self.said.items()}
            return "last turn taken back"
        return f"{word} is no command; the commands are {_COMMANDS}; a space before it makes it a message"


def chat(name: str, which: str, system: str | None) -> None:
    """Talk with a run's models until `/quit`, the end of standard input, or Ctrl-C while no model answers."""
    home = home_folder()
    run = taken_run(home, name, _MODELS)
    recipe = run.recipe
    with using(home):
        folders = _folders(run, open_store(home), which)
        engine = _engine(recipe)
        options: dict[str, int | float] = {
            str(name): value
            for name, value in recipe.evaluation.load_options().items()
            if name not in _NOT_TAKEN and name in load(ENGINES, engine).OPTIONS
        }
        gpus = [memory for _, memory in devices()]
        places = openings(folders, engine, recipe.date, options, gpus, available_memory())
        sampling = Sampling(max_new_tokens=max_new_tokens(recipe))
        said = f"greedy, {sampling.max_new_tokens} tokens at most, by {engine}"
        print(f"{', '.join(folders)} of {run.id}: {said}; {_COMMANDS}", file=sys.stderr)
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        models: list[ChatModel] = []
        display = Display()
        try:
            for model, opening in places.items():
                models.append(ChatModel(model, opening, events, run.folder / "logs" / f"chat-{model}.log"))
                # One after the other: each measures what is free when it is opened.
                display.wait(f"loading {model} …")
                _ready(models[-1], events)
                display.stop()
            _talk(
                models,
                Talk(list(folders), recipe.system_prompt if system is None else system),
                events,
                {**dataclasses.asdict(sampling)},
            )
        finally:
            display.stop()
            end_all(one.close for one in models)


def _folders(run: Run, store: Store, which: str) -> dict[str, Path]:
    """The folders of the models that answer, by name.

    Raises:
        RecipeError: one that is asked for is gone, or was never trained.
    """
    policy = policy_of(run)
    if policy is None and which == "aligned":
        raise RecipeError(
            f"--model must be base where a run has no policy, got aligned for {run.id} ({run.state}); finish it with `bnf run`"
        )
    found: dict[str, Path] = {}
    if which != "aligned":
        base = run.artifacts.get(BASE)
        wrong = "never found" if base is None else store.damage(base)
        if base is None or wrong is not None:
            raise RecipeError(f"{run.id} must have its base model, got none ({wrong}); bring it back, or write --model aligned")
        folder = model_folder(base.path)
        if store.outside_fingerprint(folder)[: len(base.fingerprint)] != base.fingerprint:
            print(
                f"{folder} has changed since {run.id}: this base model is another than the one that was aligned",
                file=sys.stderr,
            )
        found["base"] = folder
    if policy is not None and which != "base":
        if not store.available(policy.artifact):
            raise RecipeError(
                f"{run.id} must have its policy, got a damaged one ({store.damage(policy.artifact)}); run its recipe again, or set "
                "BNF_STORE to the store that has it"
            )
        found["aligned"] = model_folder(store.fetch(policy.artifact))
        if (unfinished := unfinished_rounds(run)) is not None:
            print(f"aligned is {unfinished}", file=sys.stderr)
    return found


def _engine(recipe: Recipe) -> str:
    """The engine of the run's evaluation, or where that can't load a model here, this machine's."""
    asked = recipe.evaluation.engine
    if not is_remote(asked) and importlib.util.find_spec(load(ENGINES, asked).LIBRARY) is not None:
        return asked
    instead = local_engine()
    why = "an endpoint" if is_remote(asked) else "not installed here"
    print(f"the run was evaluated by {asked}, {why}; {instead} answers", file=sys.stderr)
    return instead


def max_new_tokens(recipe: Recipe) -> int:
    """The longest completion of the run's evaluation: that of its benchmarks, and no more than `evaluation.max_new_tokens`."""
    own = [load(BENCHMARKS, name).MAX_NEW_TOKENS for name in recipe.evaluation.benchmarks]
    asked = recipe.evaluation.max_new_tokens
    longest = max(own, default=_MAX_NEW_TOKENS)
    return longest if asked is None else min(longest, asked)


def _ready(model: ChatModel, events: queue.SimpleQueue[Event]) -> None:
    """Wait until a model is loaded.

    Raises:
        RuntimeError: it can't be, with the engine's own words; or the one that was loaded before it has ended.
    """
    event = events.get()
    if event.kind == "ready":
        return
    why = event.text if event.kind == "error" else model.why_gone() if event.model == model.name else "another model ended"
    raise RuntimeError(
        f"{model.name} was not loaded: {why} (log: {model.log_path}); --model base and --model aligned load one model alone"
    )


def _talk(models: Sequence[ChatModel], talk: Talk, events: queue.SimpleQueue[Event], sampling: Record) -> None:
    screen = Screen()
    for line in screen.lines():
        if line.startswith("/"):
            if line.strip() == "/quit":
                return
            screen.say(talk.command(line))
            continue
        _turn(models, talk, line.strip(), events, sampling, screen)


def _turn(
    models: Sequence[ChatModel], talk: Talk, text: str, events: queue.SimpleQueue[Event], sampling: Record, screen: Screen
) -> None:
    """One message to every model, and their answers. Ctrl-C ends the answers where they are."""
    by_name = {model.name: model for model in models}
    with _ctrl_c(events) as pressed, screen.answers(list(by_name)) as shown:
        for model in models:
            model.ask(talk.asked(model.name, text), sampling)
        waiting = set(by_name)
        while waiting:
            event = events.get()
            if event.kind == "interrupt":
                # One that came when the last turn had ended is no part of this one.
                if pressed.is_set():
                    for name in waiting:
                        by_name[name].stop()
            elif event.kind == "text":
                shown.add(event.model, event.text)
            elif event.kind == "gone":
                raise RuntimeError(f"{event.model} ended: {by_name[event.model].why_gone()}")
            else:
                waiting.discard(event.model)
                shown.end(event.model, _note(event, sampling))
                # What wasn't answered is no part of the conversation.
                if event.kind == "end" and event.text != "prompt_too_long":
                    talk.answered(event.model, text, shown.by_name[event.model].text)


@contextlib.contextmanager
def _ctrl_c(events: queue.SimpleQueue[Event]) -> Iterator[threading.Event]:
    """Ctrl-C as an event among the models' own: an exception would break off whatever shows an answer just then, and the chat with it.

    Returns:
        Whether it was pressed.
    """
    pressed = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        pressed.set()
        # A handler may put into this kind of queue whatever it interrupts.
        events.put(Event("", "interrupt"))

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _note(event: Event, sampling: Record) -> str:
    """What has to be said of how an answer ended."""
    if event.kind == "error":
        return event.text
    return {
        "stop": "",
        "length": f"cut at {sampling['max_new_tokens']} tokens, or where the model's context ends",
        "prompt_too_long": "no answer: the conversation fills the model's context; /undo or /reset",
        "stopped": "stopped",
    }.get(event.text, event.text)
