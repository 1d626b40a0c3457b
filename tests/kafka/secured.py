"""A broker that asks everyone who they are, and lets them do only what was granted."""

from pathlib import Path
from typing import Any, Final

import trustme
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
from cryptography.hazmat.primitives import serialization

from ops.acls import grant
from ops.kafka import LocalKafka
from ops.topics import admin
from schemas.access import PROCESSES, Access, access
from schemas.settings import Settings

SECRET: Final = "m4rk3d-s3cr3t"
"""is in every password"""

_SCRAM: Final = {
    "SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256,
    "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512,
}
_MECHANISMS: Final = {"training": "PLAIN", "reader": "SCRAM-SHA-256"}
"""of users who do not have the default"""


class Secured:
    """A context manager: the broker, with a user of its name for each process, who has what it needs.

    It listens with a password inside TLS, with mutual TLS, and in plain text for the test itself, which may everything.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = trustme.CA()
        self.ca_file = self._write("ca.pem", self._authority.cert_pem.bytes())
        server = self._authority.issue_cert("127.0.0.1")
        keystore = _key(server) + b"".join(one.bytes() for one in server.cert_chain_pems)
        plain = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_training="{}";'
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        self.broker = LocalKafka(
            directory / "kafka",
            settings={
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": self._write("server.pem", keystore),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": self.ca_file,
                "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/",
                "listener.name.mutual.ssl.client.auth": "required",
                "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
                "listener.name.password.plain.sasl.jaas.config": plain.format(_password("training")),
                "listener.name.password.scram-sha-256.sasl.jaas.config": scram,
                "listener.name.password.scram-sha-512.sasl.jaas.config": scram,
            },
            listeners={"PASSWORD": "SASL_SSL", "MUTUAL": "SSL"},
        )
        self._all = Settings(
            _env_file=None,
            broker=self.broker.bootstrap,
            app="shop",
            partitions=2,
            artefact_store=str(directory / "artefacts"),
            archive=str(directory / "archive"),
        )

    def __enter__(self) -> "Secured":
        self.broker.start()
        for process in PROCESSES:
            self.user(process, access(self._all, process))
        return self

    def __exit__(self, *_: object) -> None:
        self.broker.stop()

    def user(self, name: str, may: tuple[Access, ...]) -> Settings:
        """Make a user, who may do this, and give the settings of a process that is this user."""
        mechanism = _MECHANISMS.get(name, "SCRAM-SHA-512")
        if mechanism in _SCRAM:
            made = UserScramCredentialUpsertion(
                name, ScramCredentialInfo(_SCRAM[mechanism], 4096), _password(name).encode()
            )
            client = AdminClient({"bootstrap.servers": self.broker.bootstrap})
            for answer in client.alter_user_scram_credentials([made]).values():
                answer.result()
        if may:
            with admin(self.broker.bootstrap) as admin_client:
                grant(admin_client, f"User:{name}", may)
        return self.settings(name, sasl_mechanism=mechanism)

    def settings(self, user: str, **changes: Any) -> Settings:
        """Of a process that shows a password."""
        mine = {
            "broker": self.broker.addresses["PASSWORD"],
            "security_protocol": "sasl_ssl",
            "sasl_mechanism": _MECHANISMS.get(user, "SCRAM-SHA-512"),
            "sasl_username": user,
            "sasl_password": _password(user),
            "ssl_ca_file": self.ca_file,
        }
        return Settings.model_validate(self._all.model_dump(exclude=mine.keys()) | mine | changes)

    def mutual(self, user: str, **changes: Any) -> Settings:
        """Of a process that shows a certificate, whose key has a password."""
        issued = self._authority.issue_cert(user, common_name=user)
        chain = b"".join(one.bytes() for one in issued.cert_chain_pems)
        mine = {
            "broker": self.broker.addresses["MUTUAL"],
            "security_protocol": "ssl",
            "ssl_ca_file": self.ca_file,
            "ssl_certificate_file": self._write(f"{user}.pem", chain),
            "ssl_key_file": self._write(f"{user}.key", _key(issued, SECRET)),
            "ssl_key_password_file": self._write("key-password", SECRET.encode()),
        }
        return Settings.model_validate(self._all.model_dump(exclude=mine.keys()) | mine | changes)

    def _write(self, name: str, content: bytes) -> str:
        path = self._directory / name
        path.write_bytes(content)
        return str(path)


def _password(user: str) -> str:
    return f"{SECRET}-of-{user}"


def _key(issued: trustme.LeafCert, password: str = "") -> bytes:
    """As Kafka wants it, which does not read what OpenSSL writes by default."""
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    protection = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
