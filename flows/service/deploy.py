"""`bnf deploy`: the work pools, and the deployments that `prefect.yaml` describes, on the home's server or the one of PREFECT_API_URL.

The steps that `prefect.yaml` names are here as well, so that `prefect deploy --all` gives the same deployments.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flows.errors import RecipeError
from flows.recipe.config import load_recipe
from flows.recipe.paths import portable
from flows.runs.home import home_folder, set_prefect_environment
from tasks.keys import ROOT

PREFECT = Path(sys.executable).parent / "prefect"
PREFECT_FILE = ROOT / "prefect.yaml"
PROCESS_POOL, DOCKER_POOL = "bnf-process", "bnf-docker"
IMAGE = "bnf:cpu"


def recipe_parameter(path: str) -> dict[str, object]:
    """Build step: the keys of a recipe file become defaults of a deployment's form; other keys have the defaults of any recipe."""
    # A worker's container has the project in another place.
    return {"recipe": portable(load_recipe(path)).model_dump(exclude_unset=True)}


def enter_project() -> dict[str, object]:
    """Pull step, in the run's process: enter the project's folder, so that relative paths of a recipe count from there.

    Prefect starts the process in a temporary folder. The code itself is installed with the worker or its image.
    """
    os.chdir(ROOT)
    return {}


def deploy(*, pool: str | None, debug: bool) -> None:
    """Create what is missing of the work pools, (re)create the deployments, and say what to do next.

    Args:
        pool: the work pool that the deployments go to, instead of the one that prefect.yaml names.

    Raises:
        RecipeError: the pool doesn't exist.
        RuntimeError: Prefect refused a deployment; with its words.
    """
    home = home_folder()
    own = not os.environ.get("PREFECT_API_URL")
    set_prefect_environment(home, debug=debug)
    from flows.service.server import prefect_server

    with prefect_server(home) as url:
        _create_pools(home, pool)
        if not own:
            # Several machines may share this server.
            _watch()
        names = [entry["name"] for entry in yaml.safe_load(PREFECT_FILE.read_text())["deployments"]]
        # Options of several deployments at once are ignored, so another pool is given to one after the other.
        for words in [["--all"]] if pool is None else [["--name", name, "--pool", pool] for name in names]:
            _prefect("--no-prompt", "deploy", *words)
        print(f"deployments  {', '.join(f'align/{name}' for name in names)}, on {url}")
        print(_next_steps(home, url, pool or PROCESS_POOL, own))


def _create_pools(home: Path, pool: str | None) -> None:
    """Create the pools that are missing. One that exists stays as it is: it may have been adapted."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
    from prefect.workers.process import ProcessWorker
    from prefect_docker.worker import DockerWorker

    process = ProcessWorker.get_default_base_job_template()
    docker = with_defaults(DockerWorker.get_default_base_job_template(), docker_defaults(home))
    with get_client(sync_client=True) as client:
        for name, kind, template in ((PROCESS_POOL, "process", process), (DOCKER_POOL, "docker", docker)):
            try:
                client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template))
            except ObjectAlreadyExists:
                print(f"work pool    {name}, as it was")
            else:
                print(f"work pool    {name}, new")
        if pool is not None:
            try:
                client.read_work_pool(pool)
            except ObjectNotFound:
                raise RecipeError(
                    f"--pool must be a work pool of the server, got {pool!r}; create it with `prefect work-pool create {pool}`"
                ) from None


def _watch() -> None:
    from prefect.client.orchestration import get_client

    from flows.service.crashed import AUTOMATION, watch_for_silence

    with get_client(sync_client=True) as client:
        print(f"automation   {AUTOMATION}, {'new' if watch_for_silence(client) else 'as it was'}")


def docker_defaults(home: Path) -> dict[str, object]:
    """Job variables of the Docker pool. Containers have the home under its own path and run as its owner, so that a run's record and
    links mean the same inside and outside.
    """
    state = str(home)
    owner = home.stat()
    return {
        "image": IMAGE,
        "volumes": [f"{state}:{state}"],
        "env": {"BNF_HOME": state, "PREFECT_HOME": f"{state}/prefect", "HF_HOME": f"{state}/hub", "HOME": state},
        "container_create_kwargs": {"user": f"{owner.st_uid}:{owner.st_gid}"},
        "auto_remove": True,
    }


def with_defaults(template: Mapping[str, Any], defaults: Mapping[str, object]) -> dict[str, object]:
    """A base job template whose variables have these defaults; in the UI each can be changed for a pool, a deployment or a run."""
    variables = template["variables"]
    properties = dict(variables["properties"])
    for name, value in defaults.items():
        properties[name] = {**properties[name], "default": value}
    return {**template, "variables": {**variables, "properties": properties}}


def _prefect(*words: str) -> None:
    """Run Prefect's command line in the project's folder, where prefect.yaml is."""
    done = subprocess.run(
        [str(PREFECT), *words], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"`prefect {' '.join(words)}` must succeed, got exit {done.returncode}:\n{done.stdout.strip()}")


def _next_steps(home: Path, url: str, pool: str, own: bool) -> str:
    # The home's own server may have another address when the worker starts it again; the worker says which.
    worker = " ".join(["bnf worker", *([] if pool == PROCESS_POOL else [f"--pool {shlex.quote(pool)}"])])
    state = f"BNF_HOME={shlex.quote(str(home))}"
    where = state if own else f"{state} PREFECT_API_URL={url}/api"
    return (
        f"next         {where} {worker}\n"
        f"             executes the runs{', keeps the UI up and says where it is' if own else ''}; then in the UI\n"
        "             Deployments, pipeline, Run, Custom run: the form is the recipe; or from a terminal\n"
        f"             PREFECT_API_URL={'ADDRESS' if own else url}/api prefect deployment run align/pipeline --watch"
    )
