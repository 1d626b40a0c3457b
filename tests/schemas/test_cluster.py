"""How a cluster is reached: what is refused, and that no secret is shown."""

import logging
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import ValidationError

from schemas.kafka import client_config, python_client_config
from schemas.report import Report
from schemas.settings import DONE, REFUSED, Settings, run_command

SECRET = "m4rk3d-s3cr3t"
SASL = {"security_protocol": "sasl_ssl", "sasl_username": "ann", "sasl_password": SECRET}


class Show(Report):
    """show nothing"""

    def run(self) -> int:
        """Nothing."""
        return DONE


@pytest.fixture(autouse=True)
def nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("RECOMMENDER_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """An authority, a certificate with its key, and the same key under a password."""
    from cryptography.hazmat.primitives import serialization

    authority = trustme.CA()
    issued = authority.issue_cert("worker")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(SECRET.encode()),
    )
    contents = {
        "ca": authority.cert_pem.bytes(),
        "certificate": b"".join(one.bytes() for one in issued.cert_chain_pems),
        "key": issued.private_key_pem.bytes(),
        "encrypted": encrypted,
        "password": f"{SECRET}\n".encode(),
        "empty": b"\n",
        "binary": b"\xff\xfe",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: str(tmp_path / name) for name in contents}


def settings(**given: Any) -> Settings:
    return Settings(_env_file=None, **given)


def said_of(**given: Any) -> str:
    """What is wrong with these settings, in one line."""
    with pytest.raises(ValidationError) as raised:
        settings(**given)
    [problem] = raised.value.errors()
    assert "\n" not in problem["msg"]
    return problem["msg"].removeprefix("Value error, ")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"security_protocol": "sasl_ssl"}, "sasl_username is empty: security_protocol sasl_ssl needs it"),
        (
            {"security_protocol": "sasl_plaintext", "sasl_username": "ann"},
            "sasl_password is empty: security_protocol sasl_plaintext needs it",
        ),
        (
            {"sasl_username": "ann", "sasl_password": SECRET},
            "sasl_username is set, and security_protocol is plaintext: set sasl_ssl",
        ),
        (
            {"security_protocol": "ssl", "sasl_password": SECRET},
            "sasl_password is set, and security_protocol is ssl: set sasl_ssl",
        ),
        (
            {"ssl_ca_file": "ca.pem"},
            "ssl_ca_file is set, and security_protocol is plaintext: set ssl or sasl_ssl",
        ),
        (
            {"ssl_check_hostname": False},
            "ssl_check_hostname is set, and security_protocol is plaintext: set ssl or sasl_ssl",
        ),
        (
            {"security_protocol": "ssl", "ssl_certificate_file": "worker.pem"},
            "ssl_certificate_file and ssl_key_file: give both or none",
        ),
        (
            {"security_protocol": "ssl", "ssl_key_password": SECRET},
            "ssl_key_password: there is no ssl_key_file that it could open",
        ),
        (
            {"security_protocol": "ssl", "ssl_ca_file": "no.pem"},
            "ssl_ca_file: no.pem cannot be used: no such file or directory",
        ),
        (
            {"security_protocol": "sasl_ssl", "sasl_username": "ann", "sasl_password_file": "no"},
            "sasl_password_file: no cannot be used: no such file or directory",
        ),
    ],
)
def test_settings_that_make_no_sense_together_are_refused_by_name(given: dict[str, Any], said: str):
    assert said_of(**given) == said


def test_a_secret_is_given_once(files: dict[str, str]):
    assert said_of(**SASL, sasl_password_file=files["password"]).startswith("sasl_password and sasl_password_file: ")


@pytest.mark.parametrize("file", ["empty", "binary"])
def test_a_file_without_a_password_is_refused(files: dict[str, str], file: str):
    given = {"security_protocol": "sasl_ssl", "sasl_username": "ann", "sasl_password_file": files[file]}
    assert said_of(**given).startswith("sasl_password")


@pytest.mark.parametrize(
    ("name", "file", "password"),
    [("ssl_ca_file", "password", ""), ("ssl_key_file", "ca", ""), ("ssl_key_file", "encrypted", "wrong")],
)
def test_a_file_of_another_kind_or_password_is_refused(files: dict[str, str], name: str, file: str, password: str):
    given = {"ssl_ca_file": files["ca"], "ssl_certificate_file": files["certificate"], "ssl_key_file": files["key"]}
    said = said_of(security_protocol="ssl", ssl_key_password=password, **given | {name: files[file]})
    assert said.startswith(f"{name}: {files[file]} cannot be used: ")


def test_an_encrypted_key_without_its_password_does_not_ask_on_the_terminal(files: dict[str, str]):
    given = {"RECOMMENDER_SECURITY_PROTOCOL": "ssl", "RECOMMENDER_SSL_CERTIFICATE_FILE": files["certificate"]}
    given["RECOMMENDER_SSL_KEY_FILE"] = files["encrypted"]
    done = subprocess.run(
        [sys.executable, "-m", "ops", "topics"],
        env=os.environ | given | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == REFUSED
    assert "ssl_key_password" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_password_file_is_read_without_its_line_end_and_goes_to_children_by_its_name(files: dict[str, str]):
    mine = settings(security_protocol="sasl_ssl", sasl_username="ann", sasl_password_file=files["password"])
    assert mine.password == SECRET
    assert SECRET not in mine.environment().values()
    assert mine.environment()["RECOMMENDER_SASL_PASSWORD_FILE"] == files["password"]


def test_a_child_gets_the_password_in_its_environment(monkeypatch: pytest.MonkeyPatch):
    mine = settings(**SASL)
    for name, value in mine.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == mine
    assert Settings().password == SECRET


def test_every_client_gets_the_same_settings(files: dict[str, str]):
    given = {"ssl_certificate_file": files["certificate"], "ssl_key_file": files["encrypted"]}
    mine = settings(**SASL, **given, ssl_ca_file=files["ca"], ssl_key_password=SECRET, sasl_mechanism="PLAIN")
    assert client_config(mine) == {
        "bootstrap.servers": "localhost:9092",
        "reconnect.backoff.max.ms": 1000,
        "log_level": 2,
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "ann",
        "sasl.password": SECRET,
        "ssl.endpoint.identification.algorithm": "https",
        "ssl.ca.location": files["ca"],
        "ssl.certificate.location": files["certificate"],
        "ssl.key.location": files["encrypted"],
        "ssl.key.password": SECRET,
    }
    python = python_client_config(mine)
    context = python.pop("ssl_context")
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert python == {
        "bootstrap_servers": ["localhost:9092"],
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "ann",
        "sasl_plain_password": SECRET,
    }


def test_without_a_check_of_the_host_the_authority_is_still_checked(files: dict[str, str]):
    mine = settings(security_protocol="ssl", ssl_ca_file=files["ca"], ssl_check_hostname=False)
    assert client_config(mine)["ssl.endpoint.identification.algorithm"] == "none"
    assert "enable.ssl.certificate.verification" not in client_config(mine)
    assert mine.ssl_context().verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("option", ["--sasl-password", "--ssl-key-password"])
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(option: str, capsys: pytest.CaptureFixture[str]):
    for arguments in ([option, SECRET], [f"{option}={SECRET}"]):
        assert run_command("x", Show, arguments) == REFUSED
        error = capsys.readouterr().err
        assert error.startswith(f"x: {option}: ")
        assert error.count("\n") == 1
        assert SECRET not in error


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    mine = settings(**SASL)
    shown = [repr(mine), str(mine), repr(mine.model_dump()), mine.model_dump_json()]
    monkeypatch.setenv("RECOMMENDER_SASL_PASSWORD", SECRET)
    with pytest.raises(SystemExit):
        run_command("x", Show, ["--help"])
    # wrong in many ways: alone, beside a wrong value, beside an option that does not exist
    assert run_command("x", Show, []) == REFUSED
    assert run_command("x", Show, ["--partitions", "0"]) == REFUSED
    assert run_command("x", Show, ["--nothing"]) == REFUSED
    with pytest.raises(ValidationError) as raised:
        Settings(partitions=0)
    captured = capsys.readouterr()
    for text in (*shown, captured.out, captured.err, str(raised.value), repr(raised.value)):
        assert SECRET not in text


def test_a_client_that_logs_its_configuration_at_debug_is_kept_quiet(capsys: pytest.CaptureFixture[str]):
    from schemas import logs

    logs.configure("DEBUG")
    logging.getLogger("kafka.admin.client").debug("Starting with configuration: %s", SECRET)
    assert SECRET not in capsys.readouterr().err
