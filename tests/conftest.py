"""Which tests are quick, and the order of test files: those that take longest come first, so that none of them is still at work when all
others are done.
"""

import pytest

LONGEST = (
    "e2e/test_quickstart.py",
    "e2e/test_cache.py",
    "integration/test_sharded_training.py",
    "e2e/test_stopping.py",
    "e2e/test_overlap.py",
    "e2e/test_faults.py",
    "integration/test_budget.py",
    "integration/test_vllm_engine.py",
    "e2e/test_deployments.py",
    "integration/test_nodes.py",
    "integration/test_parallel_training.py",
    "e2e/test_judge.py",
    "e2e/test_rounds.py",
    "integration/test_gpu_check.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ranks = {config.rootpath / "tests" / name: rank for rank, name in enumerate(LONGEST)}
    for item in items:
        if config.rootpath / "tests" / "unit" in item.path.parents and item.get_closest_marker("integration") is None:
            item.add_marker("unit")
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
