"""The free memory of a machine, and of a container on it."""

from bnf import host


def test_a_container_may_leave_less_than_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "_CGROUP", tmp_path / "nothing")
    machine = host.available_memory()
    assert machine is not None and machine > 0
    for name, text in (("memory.max", "5000"), ("memory.current", "3000"), ("memory.stat", "anon 10\ninactive_file 700\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(host, "_CGROUP", tmp_path)
    assert host.available_memory() == 5000 - 3000 + 700
    (tmp_path / "memory.max").write_text("max\n")
    unlimited = host.available_memory()
    assert unlimited is not None and unlimited > 10**6
