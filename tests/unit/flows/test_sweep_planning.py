"""How far the plan of a sweep is, while it is made."""

import pytest
import yaml

from flows.commands import sweep_planning
from flows.commands.sweep_planning import planning
from flows.dag import parts
from flows.dag.points import make_points
from flows.display import Display
from flows.recipe.sweep_file import load_sweep


def test_a_plan_that_takes_longer_than_a_second_shows_one_line_until_it_is_there(monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr(sweep_planning.time, "monotonic", lambda: now_s[0])
    display = Display()
    with planning(display) as tell:
        tell(1, 1000, "runs planned")
        assert not display.at_work, "what is there at once needs no line"
        now_s[0] = 1.5
        tell(12, 1000, "runs planned")
        assert {label: task.text for label, task in display.at_work.items()} == {"planning": " 12/1000  runs planned"}
    assert not display.at_work


def test_a_refused_plan_leaves_no_line(monkeypatch):
    monkeypatch.setattr(sweep_planning, "_AT_ONCE_S", 0.0)
    display = Display()
    with pytest.raises(ValueError, match="refused"), planning(display) as tell:
        tell(1, 2, "recipes checked")
        raise ValueError("refused")
    assert not display.at_work


def test_an_engines_version_is_read_once(monkeypatch):
    parts._engine_version.cache_clear()
    asked = []
    monkeypatch.setattr(parts, "package_version", lambda *packages: asked.append(packages) or "1.0")
    try:
        assert [parts.engine_settings("transformers")["version"] for _ in range(2)] == ["1.0", "1.0"] and len(asked) == 1
    finally:
        parts._engine_version.cache_clear()


def test_every_run_is_told_of(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"model_name_or_path": "m"}))
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"base": "base.yaml", "sweep": {"seed": [0, 1, 2]}}))
    told = []
    make_points(load_sweep(str(tmp_path / "s.yaml")), lambda *how: told.append(how))
    assert told == [(1, 3, "recipes checked"), (2, 3, "recipes checked"), (3, 3, "recipes checked")]
