"""Kill -9 at random moments of a run, like a power cut: the same command goes on, and ends where an unbroken run ends."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import RECIPE, SMALL, Bnf

pytestmark = [pytest.mark.e2e, pytest.mark.vllm, pytest.mark.nightly]

KILLS = 10
SAME_BITS = ("sample", "label", "prepare", "reference", "train", "analyze")
WORDS = ("run", RECIPE, *SMALL, "train.save_steps=1")


@pytest.mark.timeout(5400)
def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(bnf, first, tmp_path):
    seed = int(os.environ.get("BNF_CHAOS_SEED", KILLS))
    moments = random.Random(seed)
    homes: list[Bnf] = []
    killed_at: list[str] = []
    while len(killed_at) < KILLS:
        if not homes or not left_s(first, homes[-1]):
            # Where everything was done before the kill came, the kills that are left go to another home.
            homes.append(new_home(tmp_path / f"broken-{len(homes)}"))
        broken = homes[-1]
        # A command takes some seconds to start. What is done is not done again: the rest gets shorter with every kill.
        moment_s = moments.uniform(2.0, 6.0 + 0.75 * left_s(first, broken))
        process = broken.process(*WORDS)
        time.sleep(moment_s)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        broken.wait_for_no_processes()
        # A kill before there was a run is none of a run, and one that came too late is none at all.
        if crashed(homes) > len(killed_at):
            killed_at.append(at_work(broken))
    print(f"seed {seed}: killed at {killed_at}, in {len(homes)} homes")
    for broken in homes:
        shown = broken.json(*WORDS)
        assert shown["state"] == "completed"
        if differing(first, shown):
            # Seldom a process has other arithmetic than every other (docs/training.md), and then texts differ without any kill.
            # So what differs is held against a second unbroken run.
            first = new_home(tmp_path / f"control-{broken.home.name}").json(*WORDS)
        compare(first, shown)
        broken.wait_for_no_processes()
        assert {run["state"] for run in broken.json("runs")["runs"][1:]} <= {"crashed", "completed"}
    assert crashed(homes) == KILLS == len(killed_at)


def new_home(path: Path) -> Bnf:
    path.mkdir()
    return Bnf(path)


def crashed(homes: list[Bnf]) -> int:
    """How many runs ended without a word."""
    return sum(run["state"] == "crashed" for home in homes for run in home.json("runs")["runs"])


def left_s(whole: dict, bnf: Bnf) -> float:
    """How long the tasks that no run of this home has finished took an unbroken run."""
    finished = {name for run in bnf.json("runs")["runs"] for name in bnf.json("show", run["run"])["tasks"]}
    return sum(task["seconds"] for name, task in whole["tasks"].items() if name not in finished)


def at_work(bnf: Bnf) -> str:
    """The stage that the newest run was at."""
    working = bnf.json("show", "latest")["working"]
    return working["stage"] if working else "between stages"


def differing(whole: dict, broken: dict) -> list[str]:
    """The tasks whose bits are promised, and are not the same."""
    return [name for name in SAME_BITS if broken["tasks"][name]["fingerprint"] != whole["tasks"][name]["fingerprint"]]


def compare(whole: dict, broken: dict) -> None:
    """The same artifacts where bits are promised, and where only completeness is, no item missing or double."""
    assert set(whole["tasks"]) == set(broken["tasks"])
    for name in differing(whole, broken)[:1]:
        paths = [Path(run["tasks"][name]["path"]) for run in (broken, whole)]
        pytest.fail(f"{name} differs:\n{differences(*paths)}", pytrace=False)
    for name in whole["tasks"]:
        stage = name.split("/")[0]
        file = {"generate": "completions.jsonl", "score": "scores.jsonl", "judge": "games.jsonl"}.get(stage)
        if file is not None:
            assert items(broken, name, file) == items(whole, name, file), name


def differences(one: Path, other: Path) -> str:
    """In which files two artifacts differ, the first lines that do, and what the manifests say of their making."""
    found = []
    for path in sorted(path for path in one.rglob("*") if path.is_file()):
        twin = other / path.relative_to(one)
        if path.name == "manifest.json":
            found += [f"{file}: {json.loads(file.read_text())}" for file in (path, twin)]
        elif not twin.is_file() or path.read_bytes() != twin.read_bytes():
            lines = [file.read_bytes().splitlines() if file.is_file() else [] for file in (path, twin)]
            changed = [number for number, pair in enumerate(zip(*lines, strict=False)) if pair[0] != pair[1]]
            found.append(f"{path.name}: {[len(side) for side in lines]} lines, {changed[:20]} of them differ")
            if changed and path.suffix in {".json", ".jsonl"}:
                found += [side[changed[0]].decode()[:4000] for side in lines]
    return "\n".join(found)


def items(run: dict, name: str, file: str) -> list[tuple[str, ...]]:
    """What identifies each record, in order of the ids: a double or a gap shows."""
    lines = (Path(run["tasks"][name]["path"]) / file).read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return sorted(tuple(str(record[key]) for key in ("id", "question_id", "game") if key in record) for record in records)
