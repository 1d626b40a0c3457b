"""`python -m ops COMMAND`: what an operator runs."""

import sys

from ops.kafka import Kafka
from schemas.settings import run

COMMANDS = {
    "kafka": Kafka,
}


def main() -> int:
    """Run the command that the command line names and return its exit status."""
    return run("python -m ops", COMMANDS, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
