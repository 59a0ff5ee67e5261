"""What `ray.address: auto` stands for where RAY_ADDRESS says something."""

import pytest

from bnf.parallel.cluster import BEGAN_AT, Cluster
from bnf.parallel.ray_workers import _host_and_port, _taken, connect

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


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The clusters of which this machine is a node, as Ray finds them; nothing names one of them."""
    found: list[str] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv(BEGAN_AT, raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", lambda: frozenset(found))
    return found


def test_of_several_clusters_none_is_taken_in_silence(here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    here += ["10.0.0.4:6380", "10.0.0.4:6379"]
    monkeypatch.setattr(ray, "init", lambda *address, **how: pytest.fail(f"it took {address}"))
    monkeypatch.setattr(
        "bnf.parallel.ray_workers.socket.create_connection", lambda *address, **how: pytest.fail("it asked one")
    )
    with pytest.raises(ValueError) as refused:
        connect("auto")
    assert str(refused.value) == (
        "ray.address=auto must find one cluster on this machine, got 2 (10.0.0.4:6379, 10.0.0.4:6380); set RAY_ADDRESS to the one that is "
        "meant, with RAY_AUTH_MODE=token where it has a token, or end the others"
    )


def test_a_run_stays_on_the_cluster_that_it_began_on(here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert _taken() == "auto"
    here.append("10.0.0.4:6379")
    assert _taken() == "auto"
    for name, value in Cluster((), "10.0.0.4:6379").variables().items():
        monkeypatch.setenv(name, value)
    assert _taken() == "auto"
    # Another one begins beside it, and then the first one ends.
    here.append("10.0.0.4:6380")
    assert _taken() == "10.0.0.4:6379"
    del here[0]
    with pytest.raises(
        ValueError,
        match=r"must find the cluster on which the run began, 10.0.0.4:6379, got 10.0.0.4:6380; run again to compute there",
    ):
        _taken()
