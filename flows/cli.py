"""The command line: the commands in the order of the help, and errors as one message and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from flows.words import machines, models, recipes, results, running, scoring, studies, upkeep, watching
from flows.words.arguments import Debug, debugging

app = typer.Typer(
    name="bnf",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        import importlib.metadata

        print(f"bnf {importlib.metadata.version('bnf')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Say the version.")] = False,
    debug: Debug = False,
) -> None:
    """Align language models with the BNF loss, and measure what it gained and what it cost."""


# In the order of `bnf --help`.
for command in (
    *(recipes.init, running.run, running.sweep, running.evaluate, running.plan),
    *(watching.watch, watching.ui),
    *(results.runs, results.show, results.compare, results.report),
    *(models.chat, models.export),
    *(upkeep.cancel, results.rm, upkeep.gc),
    *(machines.deploy, machines.worker, machines.join, machines.fetch),
    *(upkeep.doctor, scoring.score, scoring.judge_score, studies.study),
    *(recipes.schema,),
):
    app.command(name=command.__name__.replace("_", "-"))(command)


def main() -> None:
    """Run a command; turn errors into one message and an exit code (1 failed, 2 usage, 130 and 143 stopped)."""
    from flows.errors import RecipeError, Stopped
    from tasks.child import Cancelled, StageFailed

    debug = debugging()
    _go_offline()
    signal.signal(signal.SIGTERM, _stop)
    try:
        app()
    except StageFailed as error:
        _fail(f"failed: {error}", 1, debug)
    except Cancelled as error:
        _fail(str(error), 1, debug)
    except Stopped as error:
        _fail(str(error), error.code, debug)
    except (RecipeError, FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        _fail(str(error), 2, debug)
    except KeyboardInterrupt:
        _fail("stopped", 130, debug)
    except (ValueError, RuntimeError, OSError) as error:
        _fail(f"failed: {error}", 1, debug)
    except Exception as error:
        # No message for people: the program itself is at fault.
        _fail(f"failed: {type(error).__name__}: {error}; with --debug it shows where", 1, debug)


def _go_offline() -> None:
    """Where BNF_OFFLINE names a bundle, no library asks a hub, in this process or in those that it starts."""
    if not os.environ.get("BNF_OFFLINE"):
        return
    # From whatever folder a process works in.
    os.environ["BNF_OFFLINE"] = os.path.abspath(os.path.expanduser(os.environ["BNF_OFFLINE"]))
    # The hub's libraries read them when they are imported.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _fail(message: str, code: int, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
    from bnf.urls import without_secrets
    from evaluation.formats import visible

    # A message may quote what a model or a file says, or a URL with a signature.
    print(f"bnf: {visible(without_secrets(message))}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
