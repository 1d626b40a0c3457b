"""`python -m ops COMMAND`: what an operator runs."""

import logging
import sys
from collections.abc import Mapping

from confluent_kafka import KafkaException

from schemas import logs
from schemas.extras import needed
from schemas.malformed import Malformed
from schemas.settings import FAILED, Command, run

with needed("python -m ops", "ops"):
    from kafka.errors import KafkaError

    from ops.acls import Acls
    from ops.bench.command import Bench
    from ops.bulk_import import Import
    from ops.chaos.command import Chaos
    from ops.chaos.soak import Soak
    from ops.console.command import Console
    from ops.demo import Demo
    from ops.distribution import Unavailable
    from ops.dlq import Dlq
    from ops.forget import Forget
    from ops.kafka import BrokerFailed, Kafka
    from ops.program import ProgramFailed
    from ops.rebuild import Rebuild
    from ops.replay import Replay
    from ops.reset import Reset
    from ops.topics import Topics, Unreachable
    from ops.watch import Watch

COMMANDS: Mapping[str, type[Command]] = {
    "kafka": Kafka,
    "topics": Topics,
    "acls": Acls,
    "import": Import,
    "replay": Replay,
    "watch": Watch,
    "console": Console,
    "reset": Reset,
    "rebuild": Rebuild,
    "dlq": Dlq,
    "forget": Forget,
    "demo": Demo,
    "bench": Bench,
    "chaos": Chaos,
    "soak": Soak,
}


def main() -> int:
    """Run the command that the command line names and return its exit status."""
    logs.configure("ERROR")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # it raises what it logs
    try:
        with needed("python -m ops", "ops"):
            return run("python -m ops", COMMANDS, sys.argv[1:])
    except (
        BrokerFailed,
        KafkaError,
        KafkaException,
        Malformed,
        ProgramFailed,
        TimeoutError,
        Unavailable,
        Unreachable,
    ) as error:
        print(f"python -m ops: {error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
