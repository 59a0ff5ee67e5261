"""Which stages may execute: the options' meaning, and what they refuse."""

import pytest

from flows.dag.checks import Check
from flows.dag.preflight import require
from flows.dag.selection import Options, select
from flows.errors import RecipeError
from tasks.keys import Ingredients
from tasks.nodes import Node, forecast
from tasks.store import Store

DAG = [
    Node("resolve", {"model_name_or_path": "m"}, role="base"),
    Node("sample", {}, {"model": "resolve/base"}),
    Node("train", {}, {"data": "sample"}),
    Node("generate", {}, {"model": "train"}, role="aligned", benchmark="gsm8k"),
    Node("score", {}, {"completions": "generate/aligned/gsm8k"}, role="aligned", benchmark="gsm8k"),
    Node("judge", {}, {"candidate": "generate/aligned/gsm8k"}, benchmark="arena_hard"),
    Node("report", {}, {"score": "score/aligned/gsm8k", "judge": "judge/arena_hard"}),
]


def stages(ids):
    return {name.split("/")[0] for name in ids}


def test_without_options_everything_may_execute():
    selection = select(DAG, Options())
    assert selection.needed == selection.allowed == {node.id for node in DAG}


def test_only_needs_what_its_stages_need_and_no_more():
    selection = select(DAG, Options(only=["generate", "score"]))
    assert stages(selection.needed) == {"resolve", "sample", "train", "generate", "score"}
    assert stages(selection.allowed) == {"resolve", "generate", "score"}


def test_from_allows_that_stage_and_what_comes_after():
    selection = select(DAG, Options(from_stage="train"))
    assert stages(selection.allowed) == {"resolve", "train", "generate", "score", "judge", "report"}
    assert stages(selection.needed) == stages(node.id for node in DAG)


def test_refresh_forces_without_limiting():
    selection = select(DAG, Options(refresh=["judge"]))
    assert selection.refresh == {"judge"} and stages(selection.allowed) == stages(node.id for node in DAG)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["trian"]}, "--only must name stages, got 'trian'; the stages are resolve, sample"),
        ({"refresh": ["x"]}, "--refresh must name stages"),
        ({"from_stage": "x"}, "--from must name stages"),
        ({"only": ["train"], "from_stage": "train"}, "--only must stand without --from"),
        ({"keep": ["x"]}, "--keep must name stages"),
        ({"keep": ["train"], "refresh": ["train"]}, "--refresh must name other stages than --keep, got train in both"),
        ({"only": ["analyze"]}, "--only must name stages of this recipe, got analyze; its stages are "),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        select(DAG, Options(**options))


def check(dag, options, store, last):
    selection = select(dag, options)
    needed = [node for node in dag if node.id in selection.needed]
    known = forecast(needed, store, last, {}, selection.keep)
    require(Check("selection", problem) for problem in selection.problems(known, {}))


def test_a_needed_stage_outside_the_selection_that_is_not_cached_is_named(tmp_path):
    dag = [Node("sample", {}), *DAG[2:]]
    with pytest.raises(
        RecipeError, match=r"--only score must select every stage .* got none for sample, which is not cached; add sample"
    ):
        check(dag, Options(only=["score"]), Store(tmp_path), {})


def test_nothing_to_keep_is_refused_with_what_differs_besides_code(tmp_path):
    dag = [Node("train", {"learning_rate": 1})]
    with pytest.raises(RecipeError, match="--keep train must find an artifact that differs in code alone, got no artifact"):
        check(dag, Options(keep=["train"]), Store(tmp_path), {})
    store = Store(tmp_path)
    made_of = Ingredients("train", {"learning_rate": 2}, {}, {"bnf.training.trainer": "old"})
    work = store.work_folder("train", made_of.key())
    (work / "out").write_text("weights")
    last = {"train": store.commit(made_of, work, content=("out",), fingerprint=None, about={})}
    with pytest.raises(RecipeError, match=r"got settings\.learning_rate; run without --keep"):
        check(dag, Options(keep=["train"]), store, last)
