"""docker/ as far as it can be checked without Docker: the linters, the compose schema, and what the entry point does."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks.keys import ROOT

BIN = Path(sys.executable).parent
DOCKER = ROOT / "docker"
ENTRYPOINT = DOCKER / "entrypoint.sh"
SCRIPTS = (ENTRYPOINT, *sorted((ROOT / "docs" / "templates").glob("*.sh")))


def run(*command: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, env={**os.environ, **environment})


def enter(*command: object, **environment: str) -> subprocess.CompletedProcess:
    return run(ENTRYPOINT, *command, **environment)


@pytest.mark.parametrize(
    "command",
    [
        (BIN / "hadolint", DOCKER / "Dockerfile"),
        (BIN / "shellcheck", *SCRIPTS),
        ("bash", "-n", *SCRIPTS),
        (BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", *sorted(DOCKER.glob("compose*.yaml"))),
    ],
    ids=lambda command: Path(command[0]).name,
)
def test_linters_have_nothing_to_say(command):
    done = run(*command)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_folder_is_no_package_because_the_docker_sdk_has_its_name():
    import docker

    assert not list(DOCKER.glob("*.py")) and hasattr(docker, "DockerClient")


def test_compose_holds_no_secret_and_env_example_explains_all_it_asks_for():
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    given = {name: value for service in compose["services"].values() for name, value in service.get("environment", {}).items()}
    assert not [name for name in given if name.endswith(("PASSWORD", "SECRET", "AUTH_STRING"))]
    assert not [value for value in given.values() if value and "://" in value and "@" in value]
    asked = set(re.findall(r"\$\{([A-Z_]+)", yaml.safe_dump(compose)))
    asked |= {name for name, value in given.items() if value is None}
    asked |= {secret["environment"] for secret in compose["secrets"].values()}
    assert asked == set(re.findall(r"^#?([A-Z_]+)=", (DOCKER / "env.example").read_text(), re.M))


def test_every_service_that_stays_up_is_watched():
    for name, service in yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"].items():
        assert ("healthcheck" in service) == (service["restart"] != "no"), name


def test_the_command_replaces_the_entry_point_with_its_words_as_they_are(tmp_path):
    done = enter("printf", "%s|", "a b", "$HOME", "*", BNF_HOME=str(tmp_path / "home"))
    assert done.stdout == "a b|$HOME|*|" and (tmp_path / "home").is_dir()


def test_its_exit_code_is_the_commands(tmp_path):
    assert enter("sh", "-c", "exit 7", BNF_HOME=str(tmp_path)).returncode == 7


def test_a_secret_is_taken_from_its_file(tmp_path):
    (tmp_path / "key").write_text("s3cret with = and $signs\n")
    show = ("sh", "-c", 'printf "%s|%s" "$OPENAI_API_KEY" "${OPENAI_API_KEY_FILE-unset}"')
    done = enter(*show, BNF_HOME=str(tmp_path), OPENAI_API_KEY_FILE=str(tmp_path / "key"))
    assert done.stdout == "s3cret with = and $signs|unset"


def test_a_secret_that_is_given_twice_or_not_there_is_refused(tmp_path):
    (tmp_path / "key").write_text("a")
    twice = enter("true", BNF_HOME=str(tmp_path), HF_TOKEN="b", HF_TOKEN_FILE=str(tmp_path / "key"))
    assert twice.returncode == 2 and "HF_TOKEN must be given once" in twice.stderr
    missing = enter("true", BNF_HOME=str(tmp_path), HF_TOKEN_FILE=str(tmp_path / "none"))
    assert missing.returncode == 2 and "HF_TOKEN_FILE must name a file" in missing.stderr


def test_a_home_that_cannot_be_written_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    done = enter("true", BNF_HOME=str(tmp_path / "file" / "home"))
    assert done.returncode == 2 and "chown the volume" in done.stderr
