"""A process that joins a cluster sends the token that is there, whatever names the cluster."""

import os

import pytest

from bnf.parallel import ray_workers

ray = pytest.importorskip("ray")


@pytest.mark.parametrize("address", ["auto", "ray://head:10001"])
@pytest.mark.parametrize(
    ("has_token", "said", "mode"), [(True, None, "token"), (False, None, None), (True, "disabled", "disabled")]
)
def test_the_token_that_is_there_is_sent(address, has_token, said, mode, tmp_path, monkeypatch):
    monkeypatch.setattr(
        os, "environ", {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"), **({"RAY_AUTH_MODE": said} if said else {})}
    )
    if has_token:
        (tmp_path / "token").write_text("secret")
    joined = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(ray_workers, "_join", lambda address: joined.append((address, os.environ.get("RAY_AUTH_MODE"))))
    ray_workers.connect(address)
    assert joined == [(address, mode)]
