"""The compose file, as docker compose reads it. Nothing is started; tests/containers starts it."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ops.__main__ import COMMANDS
from ops.distribution import KAFKA_VERSION
from training.run import Run

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"


def services(*more: Path, **variables: str) -> dict[str, dict[str, Any]]:
    """All services, of every profile, under these variables and no file .env; `more` files say more of them."""
    files = [word for file in (FILE, *more) for word in ("--file", str(file))]
    command = ["docker", "compose", *files, "--env-file", os.devnull, "--profile", "*", "config", "--format", "json"]
    environment = os.environ | {"SETTINGS_FILE": os.devnull} | variables
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("docker is not installed")
    if "not a docker command" in done.stderr or "unknown flag" in done.stderr:
        pytest.skip("docker compose is not installed")
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)["services"]
    return found


def addresses(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: port["host_ip"] for name, service in found.items() for port in service.get("ports", [])}


def test_ports_are_open_to_this_machine_alone_unless_told_otherwise():
    assert addresses(services()) == dict.fromkeys(["kafka", "console", "prometheus", "grafana"], "127.0.0.1")
    assert set(addresses(services(BIND_ADDRESS="0.0.0.0")).values()) == {"0.0.0.0"}


def test_no_service_can_take_all_of_the_machine():
    for name, service in services().items():
        assert {"cpus", "memory"} <= service["deploy"]["resources"]["limits"].keys(), name
        assert {"max-size", "max-file"} <= service["logging"]["options"].keys(), name


def test_our_own_programs_can_write_to_their_volumes_alone():
    ours = {name: service for name, service in services().items() if "build" in service}
    assert {"worker", "training", "console"} <= ours.keys()
    for name, service in ours.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_every_command_is_one_that_its_program_takes():
    programs = {"operator": COMMANDS, "training": {"run": Run}}
    checked = 0
    for service in services().values():
        target = service.get("build", {}).get("target")
        if target in programs:
            command, *arguments = service["command"]
            programs[target][command](_cli_parse_args=arguments, _env_file=None)
            checked += 1
    assert checked >= 6


def test_kafka_is_the_version_that_the_tests_run_on():
    assert services()["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_every_variable_is_explained():
    used = set(re.findall(r"\$\{(\w+)", FILE.read_text()))
    explained = set(re.findall(r"^#(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert used
    assert used <= explained


def test_no_secret_has_a_default():
    """A name that is explained may stand there without a value, and a file's name is none."""
    name = r"\b(\w*(?:PASSWORD|TOKEN|SECRET|CREDENTIAL)\w*)"
    for file in (FILE, ROOT / ".env.example"):
        given = re.findall(name + r"\s*[=:][ \t]*([^\s}]+)", file.read_text())
        assert [(variable, value) for variable, value in given if not variable.endswith("_FILE")] == []


def test_secrets_reach_containers_as_the_documentation_says(tmp_path: Path):
    page = (ROOT / "docs" / "security.md").read_text()
    (override,) = re.findall(r"```yaml\n(# docker-compose\.override\.yml\n.*?)```", page, re.DOTALL)
    (tmp_path / "override.yml").write_text(override)
    found = services(tmp_path / "override.yml")
    for service, secret, variable in (
        ("worker", "kafka-worker", "RECOMMENDER_SASL_PASSWORD_FILE"),
        ("console", "console-token", "RECOMMENDER_CONSOLE_TOKEN_FILE"),
    ):
        assert [one["source"] for one in found[service]["secrets"]] == [secret]
        assert found[service]["environment"][variable] == f"/run/secrets/{secret}"
