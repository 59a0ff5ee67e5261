"""What a plan says that tasks will take: as in the nearest run on this machine, else estimated; partial work; money."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from bnf.model.digests import model_digest
from evaluation.spending import MESSAGE_TOKENS, Price
from flows.dag import costs
from flows.dag.costs import Money, endpoint_cost
from flows.dag.graph import build
from flows.dag.outlook import History, Outlook, Past, outlooks
from flows.dag.outlook_tables import outlook_table, outlook_totals
from flows.dag.plan import make_plan
from flows.dag.selection import Options
from flows.recipe.config import load_recipe, make_recipe
from flows.runs.record import start_run
from flows.runs.run_json import TaskRecord
from tasks.execute import machine
from tasks.keys import ROOT, Ingredients
from tasks.nodes import Node, ingredients
from tasks.store import Store
from tests.unit.flows.run_folders import BASE

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"
ENGINE = {"name": "vllm", "version": "1"}


def artifact(home, stage, settings, fill="", *, here=True, memory=None, **files):
    store, made_of = Store(home / "artifacts"), Ingredients(stage, settings, {}, {"code": fill})
    work = store.work_folder(stage, made_of.key())
    for name, text in {"out.json": fill, **files}.items():
        (work / name.replace("_json", ".json")).write_text(text)
    about = {"machine": machine() if here else {"cpu": "another"}, **({"memory": memory} if memory else {})}
    return store.commit(made_of, work, content=("out.json",), fingerprint=None, about=about)


def a_run(home, number, model, *tasks):
    """A run of these (node, artifact, seconds, cached), with a base model of this content."""
    run = start_run(home, make_recipe({**BASE, "name": f"r{number}"}), "x")
    run.record.started = f"2026-01-01T00:{number:02}:00+00:00"
    run.add(Node("resolve", {}, role="base"), artifact(home, "resolve", {}, model), cached=False, seconds=0.1)
    for node, made, seconds, cached in tasks:
        run.add(node, made, cached=cached, seconds=seconds)
    run.end("completed")
    return run


def generate(limit=16, role="base", benchmark="gsm8k", engine=ENGINE):
    return Node(
        "generate",
        {"benchmark": benchmark, "limit": limit, "engine": engine},
        {"model": "resolve/base"},
        role=role,
        benchmark=benchmark,
    )


def test_the_nearest_task_is_that_of_the_same_model_and_benchmark_with_the_fewest_other_settings(tmp_path):
    def made(node, fill, **how):
        return artifact(tmp_path, "generate", node.settings, fill, **how)

    same, longer = generate(16), generate(64)
    first = a_run(tmp_path, 1, "m", (same, made(same, "1", memory={"host": 7 << 30}), 10.0, False))
    a_run(tmp_path, 2, "m", (longer, made(longer, "2"), 20.0, False))
    other_engine = generate(16, engine={**ENGINE, "name": "transformers"})
    a_run(tmp_path, 3, "m", (other_engine, made(other_engine, "3"), 30.0, False))
    a_run(tmp_path, 4, "another model", (same, made(same, "4"), 40.0, False))
    a_run(tmp_path, 5, "m", (same, made(same, "5", here=False), 50.0, False))
    # What a run took from the cache, it did not execute.
    a_run(tmp_path, 6, "m", (same, made(same, "1"), 0.0, True))
    base = first.artifacts["resolve/base"].fingerprint
    history = History(tmp_path, base)
    assert history.nearest(generate(16)) == Past(first.id, 10.0, 7 << 30, None, None)
    found = history.nearest(generate(65))
    assert (found.seconds, found.differs) == (20.0, ("limit",)), "the newer of two that differ alike"
    assert history.nearest(generate(16, benchmark="crux")) is None
    assert History(tmp_path, None).nearest(generate(16)) is None, "of a model that isn't known"
    # Scores need no model.
    assert History(tmp_path, None).nearest(Node("score", {"benchmark": "gsm8k"})) is None


def test_the_same_task_comes_before_another_of_its_stage(tmp_path):
    base, aligned = generate(), generate(role="aligned")
    run = a_run(
        tmp_path,
        1,
        "m",
        (base, artifact(tmp_path, "generate", base.settings, "b"), 10.0, False),
        (aligned, artifact(tmp_path, "generate", base.settings, "a"), 5.0, False),
    )
    history = History(tmp_path, run.artifacts["resolve/base"].fingerprint)
    assert history.nearest(aligned).seconds == 5.0 and history.nearest(base).seconds == 10.0


def test_what_a_judge_cost_then_is_said(tmp_path):
    node = Node("judge", {"benchmark": "arena_hard"}, role="judge", benchmark="arena_hard")
    made = artifact(tmp_path, "judge", node.settings, summary_json='{"cost": {"usd": 0.42}}')
    run = a_run(tmp_path, 1, "m", (node, made, 3.0, False))
    assert History(tmp_path, run.artifacts["resolve/base"].fingerprint).nearest(node).usd == 0.42


@pytest.mark.skipif(not MODEL.exists(), reason="the demonstration model is not there; run `make env`")
def test_a_plan_knows_partial_work_and_estimates_what_never_ran(tmp_path, monkeypatch):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}\n' * 2)
    recipe = make_recipe(
        {
            "name": "r",
            "model_name_or_path": str(MODEL),
            "data": {"source": "pairs", "path": str(pairs)},
            "train": {},
            "evaluation": {"benchmarks": {"gsm8k": {"source": "sample"}}},
        }
    )
    home = tmp_path / "home"
    # A model on this machine is known before it is resolved: by it runs of other recipes count.
    trained = Node("train", dict(make_plan(home, recipe, Options()).forecasts["train"].node.settings))
    other = a_run(home, 1, "", (trained, artifact(home, "train", trained.settings), 77.0, False))
    resolved = other.record.tasks["resolve/base"].artifact
    other.record.tasks["resolve/base"] = TaskRecord(replace(resolved, fingerprint=model_digest(MODEL)[:32]), False, 0.1)
    other.save()
    plan = make_plan(home, recipe, Options())
    assert plan.forecasts["resolve/base"].cached is False and outlooks(plan)["train"].seconds == 77.0
    shutil.rmtree(other.folder)
    # The model's own artifact gives the others their keys.
    resolve = plan.forecasts["resolve/base"]
    store, node = Store(home / "artifacts"), resolve.node
    work = store.work_folder("resolve", resolve.key)
    (work / "model.json").write_text("{}")
    store.commit(ingredients(node, {}, store), work, content=("*",), fingerprint="a" * 32, about={"model_path": str(MODEL)})
    plan = make_plan(home, recipe, Options())
    asked = plan.forecasts["generate/base/gsm8k"]
    assert asked.cached is False
    folder = store.work_folder("generate", asked.key)
    (folder / "completions.jsonl").write_text("{}\n" * 5)
    (folder / "items.jsonl").write_text("{}\n" * 12)
    takes = outlooks(plan)
    assert takes["generate/base/gsm8k"].partial == "5 of 12 completions are there"
    assert takes["train"].estimated and takes["train"].host > 1 << 30 and takes["train"].seconds is None
    assert "resolve/base" not in takes
    # Whatever an earlier generation made of it, it was another policy's: this one isn't trained yet.
    monkeypatch.setattr("flows.dag.outlook.kept_completions", lambda entry: f"kept of {entry.node.id}")
    kept = {name: takes.partial for name, takes in outlooks(plan).items() if takes.partial}
    assert kept["generate/base/gsm8k"] == "5 of 12 completions are there" and "generate/aligned/gsm8k" not in kept
    shutil.rmtree(folder)
    assert outlooks(plan)["generate/base/gsm8k"].partial == "kept of generate/base/gsm8k"
    folder.mkdir()
    # A stage that is forced takes nothing from before.
    forced = make_plan(home, recipe, Options(refresh=["generate"]))
    assert outlooks(forced)["generate/base/gsm8k"].partial is None
    title, rows = outlook_table(takes)
    by_task = {row["task"]: row for row in rows}
    assert "nothing is known yet" in title and by_task["train"]["as in"] == "estimated"
    assert by_task["generate-base-gsm8k"]["there already"] == "5 of 12 completions are there"


@pytest.mark.skipif(not MODEL.exists(), reason="the demonstration model is not there; run `make env`")
@pytest.mark.parametrize(("asked", "wanted"), [([], 128), (["sample.held_out_prompts=16"], 144)])
def test_samples_that_are_there_are_counted_against_those_that_are_wanted(tmp_path, asked, wanted):
    recipe = load_recipe("flows/recipes/quickstart.yaml", ["judge=null", *asked])
    store, resolve = Store(tmp_path / "artifacts"), make_plan(tmp_path, recipe, Options()).forecasts["resolve/base"]
    work = store.work_folder("resolve", resolve.key)
    (work / "model.json").write_text("{}")
    about = {"model_path": str(MODEL)}
    store.commit(ingredients(resolve.node, {}, store), work, content=("*",), fingerprint="a" * 32, about=about)
    chunks = store.work_folder("sample", make_plan(tmp_path, recipe, Options()).forecasts["sample"].key) / "chunks"
    chunks.mkdir()
    (chunks / "00000.jsonl").write_text("{}\n" * 32)
    assert (
        outlooks(make_plan(tmp_path, recipe, Options()))["sample"].partial == f"the samples of 32 of {wanted} prompts are there"
    )


def paid(**sections):
    price = {"judge-x": {"input": 2.0, "output": 10.0}}
    recipe = make_recipe({"name": "paid", "model_name_or_path": "a/b", "spending": {"prices": price}, **sections})
    return recipe, {node.id: node for node in build(recipe)}


def test_money_is_that_of_known_prompts_to_that_of_the_longest_texts():
    evaluation = {
        "engine": "openai",
        "model": "judge-x",
        "max_new_tokens": 100,
        "benchmarks": {"gsm8k": {"source": "sample"}},
    }
    recipe, nodes = paid(evaluation=evaluation)
    node = nodes["generate/base/gsm8k"]
    money = endpoint_cost(node, nodes, recipe)
    assert money.num_requests == 40 and money.most == pytest.approx(money.least + 40 * 100 * 10 / 1e6)
    # The system prompt, here of about 400 tokens, is read with each item.
    prompted, of_prompted = paid(evaluation=evaluation, system_prompt="abc" * 400)
    with_prompt = endpoint_cost(of_prompted["generate/base/gsm8k"], of_prompted, prompted)
    assert with_prompt.least - money.least == pytest.approx(40 * (400 + MESSAGE_TOKENS) * 2.0 / 1e6)
    limited = Node("generate", {**node.settings, "limit": 6}, node.inputs, files=node.files)
    assert endpoint_cost(limited, nodes, recipe).num_requests == 6
    # Without a price, from a hub, or by a model that runs here, nothing is said.
    free, of_free = paid(evaluation={"engine": "openai", "model": "free", "benchmarks": {"gsm8k": {"source": "sample"}}})
    assert endpoint_cost(of_free["generate/base/gsm8k"], of_free, free) is None
    hub = Node("generate", {**node.settings, "source": "hub"}, node.inputs)
    assert endpoint_cost(hub, nodes, recipe) is None
    assert endpoint_cost(Node("generate", {**node.settings, "engine": ENGINE}), nodes, recipe) is None


@pytest.mark.parametrize(("orders", "times"), [("both", 2), ("one", 1)])
def test_a_judge_reads_both_answers_in_each_order(orders, times, tmp_path):
    answers = tmp_path / "answers.jsonl"
    answers.write_text("{}\n")
    recipe, nodes = paid(
        judge={
            "engine": "openai",
            "model": "judge-x",
            "orders": orders,
            "max_new_tokens": 50,
            "max_judgment_tokens": 20,
            "verdict": "structured",
            "benchmarks": {"arena_hard": {"source": "sample", "limit": 4, "baseline": str(answers)}},
        }
    )
    money = endpoint_cost(nodes["judge/arena_hard"], nodes, recipe)
    assert money.num_requests == 4 * times
    # Two answers in a prompt, and one reply.
    assert money.most - money.least == pytest.approx(4 * times * (2 * 50 * 2.0 + 20 * 10.0) / 1e6)


def test_of_turns_each_is_rated_with_those_before_it():
    benchmark = SimpleNamespace(NUM_TURNS=2)
    node = Node(
        "judge", {"form": "turn_score", "models": ["base"], "orders": "both", "verdict": "logprobs", "max_judgment_tokens": 1}
    )
    money = costs._of_judgments(benchmark, [{"id": "1", "turns": ["", ""]}], 100, node, Price(1.0, 0.0))
    assert money.num_requests == 2
    assert money.most - money.least == pytest.approx(3 * 100 / 1e6)


def test_the_table_names_one_run_once_and_leaves_out_what_takes_no_time():
    past = Past("r1", 68.0, 3 << 30, None, None, ("learning_rate", "seed", "optim"))
    after = Past("r1", 0.2, None, None, None)
    takes = {
        "train": Outlook(68.0, float(3 << 30), None, past),
        "generate/aligned/x": Outlook(
            12.0, None, None, Past("r1", 12.0, None, None, None), ("train",), partial="4 of 8 completions are there"
        ),
        "score/aligned/x": Outlook(0.2, None, None, after, ("generate/aligned/x",)),
        "judge/y": Outlook(None, None, None, None, money=Money(3, 0.004, 1.5)),
        "analyze": Outlook(),
    }
    title, rows = outlook_table(takes)
    assert title == "what they take, as in r1; 1 more takes less than 1 s; of 1 nothing is known yet"
    assert rows == [
        {
            "task": "train",
            "time": "1 min 08 s",
            "memory": "3.0 GiB",
            "cost": "",
            "but": "with another learning_rate, seed and 1 more",
            "there already": "",
        },
        {
            "task": "generate-aligned-x",
            "time": "12 s",
            "memory": "",
            "cost": "",
            "but": "after another train",
            "there already": "4 of 8 completions are there",
        },
        {"task": "judge-y", "time": "", "memory": "", "cost": "$0.0040 to $1.50", "but": "", "there already": ""},
    ]
    first, second = outlook_totals(takes)
    assert first == "1 min 20 s of work, without 2 tasks of unknown time, what is there already included"
    assert (
        second
        == "3 requests to endpoints: from $0.0040, what is known of their prompts, to $1.50, every text as long as it may be"
    )
    takes["score/aligned/x"] = Outlook(2.0, None, None, Past("r2", 2.0, None, None, None))
    title, rows = outlook_table(takes)
    assert [row["as in"] for row in rows][:3] == [
        "r1, with another learning_rate, seed and 1 more",
        "r1, after another train",
        "r2",
    ]


def test_the_time_of_another_amount_of_work_is_said_and_not_counted():
    past = Past("r1", 27.0, 3 << 30, None, None, ("engine.seed", "limit"))
    takes = {
        "generate/base/x": Outlook(None, float(3 << 30), None, past),
        "report": Outlook(5.0, None, None, Past("r1", 5.0, None, None, None)),
    }
    _, rows = outlook_table(takes)
    assert [(row["time"], row["but"]) for row in rows] == [("", "27 s with another limit, engine.seed"), ("5.0 s", "")]
    assert outlook_totals(takes) == ["5.0 s of work, without 1 task of unknown time"]
    assert takes["generate/base/x"].to_json()["seconds_of_run"] == 27.0
