"""`python -m training COMMAND`: the batch job."""

import signal
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Final

from schemas.extras import needed
from schemas.settings import FAILED, Command, run

with needed("python -m training", "training"):
    from training.bench import Bench
    from training.release.history import History
    from training.release.promote import Promote, Rollback
    from training.reproduce import Reproduce
    from training.run import FAILURES, Run, told
    from training.starts import Starts

COMMANDS: Final[Mapping[str, type[Command]]] = {
    "run": Run,
    "reproduce": Reproduce,
    "bench": Bench,
    "history": History,
    "promote": Promote,
    "rollback": Rollback,
    "starts": Starts,
}


def stop(_signal: int, _frame: FrameType | None) -> None:
    """End the process as an exception does, so that a half-written artefact is removed."""
    sys.exit(128 + signal.SIGTERM)


def main() -> int:
    """Run the command that the command line names and return its exit status."""
    signal.signal(signal.SIGTERM, stop)
    try:
        with needed("python -m training", "training"):
            return run("python -m training", COMMANDS, sys.argv[1:])
    except FAILURES as error:
        print(f"python -m training: {told(error)}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
