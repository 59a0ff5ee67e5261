"""The command line. Heavy libraries are imported by the commands that use them, so `--help` answers at once."""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer


class FileFormat(StrEnum):
    native = "native"
    zeroeval = "zeroeval"


class JudgmentFormat(StrEnum):
    native = "native"
    upstream = "upstream"


app = typer.Typer(
    name="bnf",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, such as flows/recipes/quickstart.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value …]", help="Recipe keys, e.g. train.learning_rate=1e-5.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and Prefect's own lines.")]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's name or its recipe's, the beginning of one run's alone, or `latest`.")
]


Refresh = Annotated[str, typer.Option("--refresh", metavar="STAGE,…", help="Execute these stages although they are cached.")]
Keep = Annotated[
    str, typer.Option("--keep", metavar="STAGE,…", help="Take these stages' artifacts where they differ in code alone.")
]
Verify = Annotated[bool, typer.Option("--verify", help="Check cached artifacts by content, not by size alone.")]


def _debugging() -> bool:
    """Whether `--debug` stands anywhere: before the command, or behind it."""
    return "--debug" in sys.argv


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


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    only: Annotated[
        str, typer.Option("--only", metavar="STAGE,…", help="Only these stages may execute; others must be cached.")
    ] = "",
    from_stage: Annotated[
        str, typer.Option("--from", metavar="STAGE", help="Only this stage and later ones may execute.")
    ] = "",
    refresh: Refresh = "",
    keep: Keep = "",
    verify: Verify = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a recipe: every stage that is not cached, up to the report."""
    from flows.commands import run_recipe
    from flows.dag.selection import Options
    from flows.recipe.config import load_recipe

    options = Options(_names(only), from_stage or None, _names(refresh), _names(keep), verify)
    run_recipe(load_recipe(recipe, overrides or ()), options, as_json=as_json, debug=debug or _debugging())


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run, or a model's folder or hub id.")],
    recipe_and_overrides: Annotated[list[str] | None, typer.Argument(metavar="[RECIPE] [key=value …]")] = None,
    refresh: Refresh = "",
    keep: Keep = "",
    verify: Verify = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the evaluation stages alone: of a run's models, or of any model."""
    from flows.commands import evaluate_target
    from flows.dag.selection import Options

    words = recipe_and_overrides or []
    recipe = next((word for word in words[:1] if "=" not in word), None)
    options = Options(refresh=_names(refresh), keep=_names(keep), verify=verify)
    evaluate_target(target, recipe, words[1:] if recipe else words, options, as_json=as_json, debug=debug or _debugging())


@app.command()
def plan(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    keep: Keep = "",
    verify: Verify = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Say what the training will take: memory, disk, steps, hours. Needs no weights.")
    ] = False,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="NAME", help="With --estimate: a GPU such as H100, or cpu.")
    ] = None,
    model_config: Annotated[
        str | None, typer.Option("--model-config", metavar="FILE", help="With --estimate: the model's config.json.")
    ] = None,
    groups: Annotated[
        int | None, typer.Option("--groups", min=1, help="With --estimate: how many prompt groups, where none are prepared.")
    ] = None,
    group_tokens: Annotated[
        int | None, typer.Option("--group-tokens", min=3, help="With --estimate: the tokens of one, prompt and completions.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a run would do: each task cached or to run, and what changed. Runs nothing."""
    from flows.commands import show_estimate, show_plan
    from flows.dag.estimate import Asked
    from flows.dag.selection import Options
    from flows.errors import RecipeError
    from flows.recipe.config import load_recipe

    of_estimate = {"--gpu": gpu, "--model-config": model_config, "--groups": groups, "--group-tokens": group_tokens}
    of_plan = {"--keep": keep, "--verify": verify}
    for option, value in (of_plan if estimate else of_estimate).items():
        if value:
            rule, remedy = ("without", "leave one of them out") if estimate else ("beside", "add --estimate")
            raise RecipeError(f"{option} must stand {rule} --estimate, got {value!r}; {remedy}")
    loaded = load_recipe(recipe, overrides or ())
    if estimate:
        show_estimate(loaded, Asked(model_config, gpu, groups, group_tokens), as_json=as_json)
    else:
        show_plan(loaded, Options(keep=_names(keep), verify=verify), as_json=as_json)


@app.command()
def runs(as_json: Json = False, debug: Debug = False) -> None:
    """List the runs, newest first: state, age, and the size of what they name."""
    from flows.commands import show_runs

    show_runs(as_json=as_json)


@app.command()
def show(run: RunName, as_json: Json = False, debug: Debug = False) -> None:
    """Show a run: its results, and what each task took."""
    from flows.commands import show_run

    show_run(run, as_json=as_json)


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(metavar="RUN RUN …")], as_json: Json = False, debug: Debug = False
) -> None:
    """Compare runs item by item: paired differences with intervals, and p-values corrected for their number."""
    from flows.comparison import compare_runs

    compare_runs(names, as_json=as_json)


@app.command()
def report(
    run: RunName,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say where a run's report is, or open it."""
    from flows.commands import show_report

    show_report(run, open_it=open_it, as_json=as_json)


@app.command()
def cancel(run: RunName, as_json: Json = False, debug: Debug = False) -> None:
    """End a run that is at work, as the UI's cancel does; the same command goes on from where it was."""
    from flows.commands import cancel_run

    cancel_run(run, as_json=as_json)


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and drop nothing.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Drop artifacts and partial work that no run names. Delete a run's folder to let go of what only it names."""
    from flows.commands import collect_garbage

    collect_garbage(dry_run=dry_run, as_json=as_json)


@app.command()
def ui(debug: Debug = False) -> None:
    """Start the Prefect UI on this home's runs; Ctrl-C ends it."""
    from flows.commands import serve_ui

    serve_ui(debug=debug or _debugging())


@app.command()
def deploy(
    pool: Annotated[
        str | None, typer.Option("--pool", metavar="POOL", help="Deploy to this work pool instead of prefect.yaml's.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Create the work pools and the deployments of prefect.yaml, and say what to do next."""
    from flows.service.deploy import deploy

    deploy(pool=pool, debug=debug or _debugging())


@app.command()
def worker(
    pool: Annotated[str, typer.Option("--pool", metavar="POOL", help="The work pool whose runs it executes.")] = "bnf-process",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Flow runs at a time.")] = 1,
    healthcheck: Annotated[bool, typer.Option("--with-healthcheck", help="Answer at :8080/health while it polls.")] = False,
    debug: Debug = False,
) -> None:
    """Execute the runs of the deployments on this machine; Ctrl-C ends it and them."""
    from flows.service.worker import serve

    raise SystemExit(serve(pool=pool, limit=limit, healthcheck=healthcheck))


@app.command()
def join(
    stay: Annotated[bool, typer.Option("--stay", help="Go on with the next training, for as long as nobody ends it.")] = False,
    debug: Debug = False,
) -> None:
    """Join this home's next training as one of its nodes (train.num_nodes); ends with it. Its reference pass is joined too."""
    from flows.commands import join_training

    raise SystemExit(join_training(stay=stay))


@app.command()
def doctor(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="Also check everything that this recipe needs.")
    ] = None,
    overrides: Overrides = None,
    offline: Annotated[bool, typer.Option("--offline", help="Check that it works without a network.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check the machine, the installation, and a recipe."""
    from flows.doctor import diagnose

    diagnose(recipe, overrides or (), offline=offline, as_json=as_json)


@app.command()
def score(
    benchmark: Annotated[str, typer.Argument(help="A benchmark, such as gsm8k.")],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="completions.jsonl with its items.jsonl beside it, or ZeroEval's.")
    ],
    file_format: Annotated[FileFormat, typer.Option("--format", help="Ours, or ZeroEval's result files.")] = FileFormat.native,
    lm_eval: Annotated[
        bool, typer.Option("--lm-eval", help="Also let lm-eval's own tasks read them, and list where it disagrees.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score stored completions, without a model."""
    from flows.commands import score_file

    score_file(benchmark, file, file_format.value, lm_eval=lm_eval, as_json=as_json)


@app.command(name="judge-score")
def judge_score(
    benchmark: Annotated[str, typer.Argument(help="arena-hard or wildbench.")],
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE …", help="Recorded judgments: upstream's files, or a judge stage's games.jsonl."),
    ],
    file_format: Annotated[
        JudgmentFormat | None, typer.Option("--format", help="Refuse files of the other format; without it both are read.")
    ] = None,
    questions: Annotated[
        str | None,
        typer.Option("--questions", metavar="FILE|hub", help="WildBench's questions, whose tags give the task means."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Aggregate recorded judgments, without a model."""
    from flows.commands import score_judgments

    score_judgments(benchmark, files, file_format.value if file_format else None, questions, as_json=as_json)


def _names(text: str) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] or None


def main() -> None:
    """Run a command; turn errors into one message and an exit code (1 failed, 2 usage, 130 and 143 stopped)."""
    from flows.errors import RecipeError, Stopped
    from tasks.child import Cancelled, StageFailed

    debug = _debugging()
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


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _fail(message: str, code: int, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"bnf: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
