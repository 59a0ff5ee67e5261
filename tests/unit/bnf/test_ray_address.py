"""What `ray.address: auto` stands for where RAY_ADDRESS says something."""

import pytest

from bnf.parallel.ray_workers import _host_and_port, connect

ray = pytest.importorskip("ray")


@pytest.mark.parametrize("named", ["local", "somewhere", "head:port"])
def test_a_variable_that_names_no_cluster_is_refused_by_its_name(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", named)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ValueError) as refused:
        connect("auto")
    assert str(refused.value) == (
        f"RAY_ADDRESS must be the HOST:PORT of a cluster with ray.address=auto, got {named}; set it so, unset it for the cluster that runs "
        "on this machine, or set ray.address to local"
    )


def test_the_variable_says_which_cluster_and_not_for_another_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.4:6379")
    assert _host_and_port("auto") == ("10.0.0.4", 6379)
    assert _host_and_port("ray://[::1]:10001") == ("::1", 10001)
