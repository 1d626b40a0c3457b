"""`python -m stream_app [SETTINGS] [-- FAUST OPTIONS]`: run a worker, or several."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from schemas.settings import run_command
from stream_app.settings import WorkerSettings

_PROGRAM = "python -m stream_app"
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main() -> int:
    """Run what the command line says and return the exit status."""
    # a worker computes in one thread, and a machine runs a worker per core; numpy reads these when it is loaded
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # while it starts, there is nothing to finish
    arguments = sys.argv[1:]
    del sys.argv[1:]  # Faust looks for options of its own there, and would find --app
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return run_command(_PROGRAM, _command(arguments[at + 1 :]), arguments[:at])


def _command(faust_options: Sequence[str]) -> type[WorkerSettings]:
    class Worker(WorkerSettings):
        __doc__ = WorkerSettings.__doc__

        def run(self) -> int:
            """Run one worker here, or several as children."""
            # imported only now, so that --help and a wrong setting answer at once
            if self.processes > 1:
                from stream_app.supervisor import supervise

                return supervise(self, faust_options)
            from stream_app.worker import run_worker

            return run_worker(self, faust_options)

    return Worker


def _end(status: int) -> NoReturn:
    """End the process without taking the interpreter down.

    The Kafka client's threads may still call back, and a call into an interpreter that is going away is a crash.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _end(main())
