"""The Kafka cluster as every client must know it: its address, how it is spoken to, and as whom.

Secrets come from the environment, from `.env` or from files, as container platforms mount them. They are never on a
command line, where others on the machine could read them, and never in what a setting, an error or a log prints.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings

_MOST_CHARACTERS: Final = 4096
"""that are read of a file that holds a password"""


class Cluster(BaseSettings):
    """Where the cluster is, and how to get in."""

    broker: str = Field("localhost:9092", min_length=1, description="Kafka bootstrap servers, host:port[,host:port]")
    security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = Field(
        "plaintext", description="ssl: TLS; sasl: with user name and password; sasl_ssl: both"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="how the password is proved; PLAIN sends it, so only inside TLS"
    )
    sasl_username: str = Field("", description="user name")
    sasl_password: SecretStr = Field(
        SecretStr(""), description="password; from the environment or .env, never on a command line"
    )
    sasl_password_file: str = Field("", description="file that holds the password instead")
    ssl_ca_file: str = Field("", description="PEM of who may vouch for brokers; the system's authorities if empty")
    ssl_certificate_file: str = Field("", description="PEM of this client's certificate and its chain, for mutual TLS")
    ssl_key_file: str = Field("", description="PEM of the certificate's private key")
    ssl_key_password: SecretStr = Field(
        SecretStr(""), description="of an encrypted key; from the environment or .env, never on a command line"
    )
    ssl_key_password_file: str = Field("", description="file that holds the key's password instead")
    ssl_check_hostname: bool = Field(True, description="refuse a broker whose certificate is of another host")

    @property
    def has_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.security_protocol in ("ssl", "sasl_ssl")

    @property
    def has_password(self) -> bool:
        """Whether a user name and a password are shown."""
        return self.security_protocol in ("sasl_plaintext", "sasl_ssl")

    @property
    def password(self) -> str:
        """The user's password.

        Raises:
            OSError: its file cannot be read.
        """
        return _secret(self.sasl_password, self.sasl_password_file)

    @property
    def key_password(self) -> str:
        """The password of the private key, empty for none.

        Raises:
            OSError: its file cannot be read.
        """
        return _secret(self.ssl_key_password, self.ssl_key_password_file)

    def ssl_context(self) -> ssl.SSLContext:
        """For Python's own TLS, as aiokafka and kafka-python use it.

        Raises:
            ValueError: a file cannot be used; the message names its setting.
        """
        with _named("ssl_ca_file", self.ssl_ca_file):
            context = ssl.create_default_context(cafile=self.ssl_ca_file or None)
        context.check_hostname = self.ssl_check_hostname
        if self.ssl_certificate_file:
            with _named("ssl_certificate_file", self.ssl_certificate_file):
                Path(self.ssl_certificate_file).read_bytes()
            with _named("ssl_key_file", self.ssl_key_file):
                Path(self.ssl_key_file).read_bytes()
            wrong = "ssl_key_password is wrong, or the key is not that of ssl_certificate_file"
            with _named("ssl_key_file", self.ssl_key_file, wrong):
                # asked in any case: without an answer OpenSSL would ask on the terminal
                context.load_cert_chain(self.ssl_certificate_file, self.ssl_key_file, lambda: self.key_password)
        return context

    @model_validator(mode="after")
    def _settings_make_sense_together(self) -> Self:
        for name in ("sasl_password", "ssl_key_password"):
            file = f"{name}_file"
            if getattr(self, name).get_secret_value() and getattr(self, file):
                raise ValueError(f"{name} and {file}: give one of them")
            with _named(file, getattr(self, file)):
                _secret(getattr(self, name), getattr(self, file))
        if self.has_password:
            for name, given in (("sasl_username", self.sasl_username), ("sasl_password", self.password)):
                if not given:
                    raise ValueError(f"{name} is empty: security_protocol {self.security_protocol} needs it")
        else:
            self._refuse_unused("sasl_", "sasl_ssl")
        if self.has_tls:
            if bool(self.ssl_certificate_file) != bool(self.ssl_key_file):
                raise ValueError("ssl_certificate_file and ssl_key_file: give both or none")
            if self.key_password and not self.ssl_key_file:
                raise ValueError("ssl_key_password: there is no ssl_key_file that it could open")
            self.ssl_context()
        else:
            self._refuse_unused("ssl_", "ssl or sasl_ssl")
        return self

    def _refuse_unused(self, prefix: str, wanted: str) -> None:
        """Whoever sets a password or a certificate believes that it protects them."""
        for name, field in Cluster.model_fields.items():
            if name.startswith(prefix) and name != "sasl_mechanism" and getattr(self, name) != field.default:
                raise ValueError(f"{name} is set, and security_protocol is {self.security_protocol}: set {wanted}")


def _secret(given: SecretStr, file: str) -> str:
    if not file:
        return given.get_secret_value()
    with Path(file).open() as opened:
        return opened.read(_MOST_CHARACTERS).rstrip("\r\n")


@contextmanager
def _named(setting: str, path: str, reason: str = "") -> Iterator[None]:
    """Say which setting names a file that cannot be used."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:  # an SSLError is an OSError
        told = reason or (getattr(error, "strerror", "") or str(error)).lower()
        raise ValueError(f"{setting}: {path} cannot be used: {told}") from None
