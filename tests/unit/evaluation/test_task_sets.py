"""Which data sets of the hub lm-eval's tasks read, by their definitions alone, and that they are read at the commits of the key."""

import datasets
import pytest

from evaluation.harness import sets
from evaluation.harness.sets import TaskSet, at_commits, task_sets

FILES = {
    "_base.yaml": "dataset_path: some/base\ndataset_name: shared\ndoc_to_text: !function utils.text\ntag: our_tag\n",
    "one.yaml": "task: our_one\ninclude: _base.yaml\ndataset_name: own\ndataset_kwargs: {revision: v2, trust_remote_code: true}\n",
    "two.yaml": "task: our_two\ninclude: _base.yaml\n",
    "files.yaml": "task: our_files\ndataset_path: json\ndataset_kwargs: {data_files: {test: a.jsonl}}\n",
    "made.yaml": "task: our_made\ndataset_path: some/made\ncustom_dataset: !function utils.make\n",
    "group.yaml": "group: our_group\ntask:\n- our_one\n- our_files\n- our_made\n- {task: our_two, dataset_name: third}\n",
    "inner.yaml": "group: our_outer\ntask:\n- group: inside\n  task: [our_two]\n- task: alone\n  dataset_path: some/alone\n",
    "folder.yaml": "task: our_folder\ndataset_path: some/folder\ndataset_kwargs: {data_dir: part, data_files: null}\n",
}


@pytest.fixture
def definitions(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    # lm-eval's own take seconds to read.
    monkeypatch.setattr(sets, "definition_folders", lambda include_path: [include_path])
    return tmp_path


def test_sets_of_tasks_groups_and_tags(definitions):
    one, two = TaskSet("some/base", "own", "v2"), TaskSet("some/base", "shared")
    found = {
        name: task_sets(name, definitions) for name in ("our_one", "our_files", "our_made", "our_folder", "our_outer", "none")
    }
    assert found["our_one"] == [one] and found["our_files"] == found["our_made"] == found["none"] == []
    assert found["our_folder"] == [TaskSet("some/folder", None, None, {"data_dir": "part"})]
    assert found["our_outer"] == [two, TaskSet("some/alone", None)]
    assert task_sets("our_group", definitions) == [one, TaskSet("some/base", "third")]
    assert task_sets("our_tag", definitions) == [one, two]


def test_a_task_reads_its_sets_at_the_commits_of_its_key(monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *given, **options: asked.append((*given, options)))
    before = datasets.load_dataset
    with at_commits({("some/set", None): "v1", ("some/set", "old"): "v0"}):
        datasets.load_dataset(path="some/set", name="main", data_dir=None)
        datasets.load_dataset("some/set", "main", revision="old")
        datasets.load_dataset("other/set", revision="v2")
        datasets.load_dataset("json", data_files="a.jsonl")
    assert datasets.load_dataset is before
    assert asked == [
        ("some/set", "main", {"revision": "v1"}),
        ("some/set", "main", {"revision": "v0"}),
        ("other/set", None, {"revision": "v2"}),
        ("json", None, {"data_files": "a.jsonl"}),
    ]
