"""The rights that each process needs: as commands of Kafka's own tool, or granted at once."""

import shlex
from collections.abc import Iterable
from typing import Final

from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from kafka.errors import ClusterAuthorizationFailedError, SecurityDisabledError
from pydantic import Field, field_validator

from ops.topics import admin
from schemas.access import PROCESSES, Access, access
from schemas.report import Report
from schemas.settings import DONE, Refused, Settings

_TYPES: Final = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional-id": ResourceType.TRANSACTIONAL_ID,
}
_REASONS: Final = {
    ClusterAuthorizationFailedError: "there is no right to ALTER the cluster: do it as one of the brokers' super.users",
    SecurityDisabledError: "the brokers have no access control: set authorizer.class.name there",
}


class Acls(Report):
    """list the rights that each process needs on the cluster, or grant them"""

    process: str = Field("", description="of this process only")
    principal: str = Field(
        "", pattern=r"^(\w+:.+)?$", description="who gets them, e.g. User:ann; if omitted User: and the process' name"
    )
    grant: bool = Field(False, description="grant them; without, commands that do it are printed")

    @field_validator("process")
    @classmethod
    def _process_is_known(cls, process: str) -> str:
        if process and process not in PROCESSES:
            raise ValueError(f"must be one of {', '.join(PROCESSES)}")
        return process

    def run(self) -> int:
        """Print or grant.

        Raises:
            Refused: the cluster does not let us.
            Unreachable: no broker answered.
        """
        wanted = {
            name: (self.principal or f"User:{name}", access(self, name))
            for name in ([self.process] if self.process else PROCESSES)
        }
        if self.grant:
            with admin(self) as client:
                for principal, needed in wanted.values():
                    grant(client, principal, needed)
        lines = []
        for name, (principal, needed) in wanted.items():
            if self.grant:
                lines.append(f"{principal} may do what {name} must")
            else:
                lines.append(f"# {name}: {PROCESSES[name].replace('`', '')}")
                lines += [line(self, principal, one) for one in needed]
        told = {name: {"principal": who, "access": [one._asdict() for one in of]} for name, (who, of) in wanted.items()}
        self.report("\n".join(lines), granted=self.grant, processes=told)
        return DONE


def line(settings: Settings, principal: str, needed: Access) -> str:
    """The command of Kafka's own tool that grants this."""
    operations = [word for operation in needed.operations for word in ("--operation", operation)]
    words = ["kafka-acls.sh", "--bootstrap-server", settings.broker, "--add", "--allow-principal", principal]
    return shlex.join([*words, *operations, f"--{needed.resource}", needed.name])


def grant(client: KafkaAdminClient, principal: str, needed: Iterable[Access]) -> None:
    """Let `principal` do this, from any host; what it may do already stays.

    Raises:
        Refused: the cluster does not let us, or has no access control.
    """
    acls = [
        ACL(principal, "*", ACLOperation[operation], ACLPermissionType.ALLOW, ResourcePattern(_TYPES[resource], name))
        for resource, name, operations in needed
        for operation in operations
    ]
    for error in client.create_acls(acls)["failed"]:
        reason = _REASONS.get(error) or error.description
        raise Refused(f"not everything was granted to {principal}: {reason}")
