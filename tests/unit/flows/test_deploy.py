"""Deployments without a server: their parameters fit the form's schema, and the pools' templates what they are made for."""

import json
import os
import re
import subprocess

import kubernetes_validate
import pytest
import yaml
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate
from prefect.utilities.templating import apply_values
from prefect_docker.worker import DockerWorker

from bnf.training.config import TrainConfig
from flows.align import align
from flows.recipe.config import load_recipe, make_recipe
from flows.service.deploy import PREFECT_FILE, docker_defaults, enter_project, recipe_parameter, with_defaults
from tasks.keys import ROOT

TEMPLATES = ROOT / "docs" / "templates"
SCHEMA = parameter_schema(align).model_dump_for_openapi()
DEPLOYMENTS = {entry["name"]: entry for entry in yaml.safe_load(PREFECT_FILE.read_text())["deployments"]}


def parameters(name):
    """What `prefect deploy` makes of a deployment's parameters."""
    (step,) = DEPLOYMENTS[name]["build"]
    (words,) = step.values()
    return apply_values(DEPLOYMENTS[name]["parameters"], {words["id"]: recipe_parameter(words["path"])})


def test_the_deployments_are_the_pipeline_and_the_evaluation_alone():
    assert {name: entry["entrypoint"] for name, entry in DEPLOYMENTS.items()} == {
        "pipeline": "flows.align.align",
        "evaluation": "flows.align.align",
    }
    assert parameters("evaluation")["evaluate_run"] == "latest"


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_the_defaults_are_a_recipe_that_the_form_accepts(name):
    given = parameters(name)
    validate(given, SCHEMA, preprocess=False)
    assert make_recipe(given["recipe"]) == make_recipe(recipe_parameter("flows/recipes/quickstart.yaml")["recipe"])


def test_the_form_of_train_has_the_fields_of_its_configuration():
    form, nothing = SCHEMA["definitions"]["Recipe"]["properties"]["train"]["anyOf"]
    assert nothing == {"type": "null"}
    assert set(form["properties"]) == set(TrainConfig().to_dict()) - {"seed"}
    learning_rate = dict(form["properties"]["learning_rate"])
    assert learning_rate.pop("description") == TrainConfig.__dataclass_fields__["learning_rate"].metadata["description"]
    assert learning_rate == {"type": "number", "default": 5e-7, "title": "learning_rate"}


def test_relative_paths_are_the_projects_wherever_the_worker_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    enter_project()
    assert (ROOT / "prefect.yaml").samefile("prefect.yaml")


def test_containers_share_the_home_under_its_own_path_as_its_owner(tmp_path):
    template = with_defaults(DockerWorker.get_default_base_job_template(), docker_defaults(tmp_path))
    defaults = {name: entry.get("default") for name, entry in template["variables"]["properties"].items()}
    assert defaults["volumes"] == [f"{tmp_path}:{tmp_path}"] and defaults["env"]["BNF_HOME"] == str(tmp_path)
    assert defaults["container_create_kwargs"] == {"user": f"{tmp_path.stat().st_uid}:{tmp_path.stat().st_gid}"}
    # The class's own template is left as it was.
    assert DockerWorker.get_default_base_job_template()["variables"]["properties"]["volumes"].get("default") is None


def test_the_kubernetes_objects_are_valid():
    documents = list(yaml.safe_load_all((TEMPLATES / "kubernetes.yaml").read_text()))
    for document in documents:
        kubernetes_validate.validate(document, "1.34", strict=True)
    assert {document["kind"] for document in documents} >= {"PersistentVolumeClaim", "Role", "Deployment"}


def test_the_kubernetes_job_of_several_nodes_is_valid_and_its_first_pod_is_where_the_others_meet():
    service, job = yaml.safe_load_all((TEMPLATES / "kubernetes-nodes.yaml").read_text())
    for document in (service, job):
        kubernetes_validate.validate(document, "1.34", strict=True)
    name, spec = job["metadata"]["name"], job["spec"]
    assert (
        service["spec"]["selector"] == {"job-name": name}
        and spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    )
    [container] = spec["template"]["spec"]["containers"]
    # The entry point of the image stays, and runs this script.
    assert "command" not in container and container["args"][:2] == ["bash", "-c"]
    script = container["args"][2]
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    [recipe] = re.findall(r"flows/recipes/\S+\.yaml", script)
    config = load_recipe(recipe, re.findall(r"train\.\S+=\S+", script)).train_config()
    assert config.num_nodes == spec["completions"] == spec["parallelism"]
    assert config.nproc_per_node == container["resources"]["limits"]["nvidia.com/gpu"]
    assert config.rdzv_endpoint == f"{name}-0.{service['metadata']['name']}:29500"
    # A pod that ended with a training would not be there for a next launch: Kubernetes starts no pod again that ended well.
    assert script.splitlines()[-1] == "exec bnf join --stay" and job["spec"]["successPolicy"]["rules"] == [
        {"succeededIndexes": "0"}
    ]


def test_the_slurm_script_fits_the_recipe_to_the_job(tmp_path):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    program = tmp_path / ".venv" / "bin" / "bnf"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$BNF_HOME" "$HF_HOME" "$@"\n')
    program.chmod(0o755)
    given = {
        "PATH": os.environ["PATH"],
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "8",
    }
    command = ["bash", str(TEMPLATES / "slurm-nodes.sh"), "r.yaml", "name=a b"]
    done = subprocess.run(command, env=given, capture_output=True, text=True)
    homes = [f"{tmp_path}/.bnf", f"{tmp_path}/models/hub"]
    assert done.stdout.splitlines() == [*homes, "run", "r.yaml", "train.num_nodes=2", "train.nproc_per_node=8", "name=a b"]
    without = subprocess.run(command[:2], env=given, capture_output=True, text=True)
    assert without.returncode != 0 and "must be a recipe, got none" in without.stderr


def test_the_kubernetes_job_template_gives_a_valid_job():
    template = json.loads((TEMPLATES / "kubernetes-job.json").read_text())
    variables = {name: entry.get("default") for name, entry in template["variables"]["properties"].items()}
    given = {"command": ["prefect", "flow-run", "execute"], "env": [{"name": "A", "value": "b"}], "labels": {"a": "b"}}
    manifest = apply_values(template["job_configuration"]["job_manifest"], {**variables, **given})
    assert "{{" not in json.dumps(manifest)
    kubernetes_validate.validate(manifest, "1.34", strict=True)
    # A variable that nothing reads would be a setting without effect.
    assert not [name for name in variables if f"{{{{ {name} }}}}" not in json.dumps(template["job_configuration"])]
