"""Several workers on one machine: one process each, restarted when they die.

A worker that refuses to start (status 2) would refuse again: then everything stops with that status. Workers are made
to be killed, so when the supervisor itself is killed the kernel kills them too (Linux only).
"""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import structlog

from schemas import logs
from schemas.settings import DONE, REFUSED
from stream_app.settings import WorkerSettings

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_HEALTHY_S: Final = 60.0
"""a worker that lived this long is restarted after the shortest pause again"""
_STOP_S: Final = 30.0
"""a worker that does not end in time is killed: the broker and its store lose nothing by that"""
_PR_SET_PDEATHSIG: Final = 1

_log = structlog.get_logger()


def supervise(settings: WorkerSettings, faust_options: Sequence[str] = ()) -> int:
    """Run `settings.processes` workers until SIGTERM or SIGINT, and return the exit status."""
    logs.configure(settings.log_level, worker=settings.worker_id)
    return asyncio.run(_Supervisor(settings, faust_options).run())


class _Supervisor:
    def __init__(self, settings: WorkerSettings, faust_options: Sequence[str]) -> None:
        self._settings = settings
        self._command = [sys.executable, "-m", "stream_app", "--", *faust_options]
        self._stopping = asyncio.Event()
        self._status = DONE

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for stop in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(stop, self._stopping.set)
        async with asyncio.TaskGroup() as group:
            for number in range(self._settings.processes):
                group.create_task(self._keep(_child(self._settings, number)))
        return self._status

    async def _keep(self, child: WorkerSettings) -> None:
        """Run one worker again and again until everything stops."""
        log, loop, pause_s = _log.bind(child=child.worker_id), asyncio.get_running_loop(), _FIRST_PAUSE_S
        while not self._stopping.is_set():
            started = loop.time()
            status = await self._run_once(child)
            if self._stopping.is_set():
                log.info("worker stopped", status=status)
            elif status == REFUSED:
                log.error("a worker refused to start, everything stops", status=status)
                self._status = REFUSED
                self._stopping.set()
            else:
                pause_s = _FIRST_PAUSE_S if loop.time() - started > _HEALTHY_S else pause_s
                log.warning("worker died, it is started again", status=status, pause_s=pause_s)
                await self._stopped_within(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _run_once(self, child: WorkerSettings) -> int:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            env=os.environ | child.environment(),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which passes it on once
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        _log.info("worker runs", child=child.worker_id, pid=process.pid)
        ended = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not ended.done():
            process.terminate()
            await asyncio.wait({ended}, timeout=_STOP_S)
            if not ended.done():
                _log.warning("worker does not end and is killed", child=child.worker_id, seconds=_STOP_S)
                process.kill()
        return await ended

    async def _stopped_within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


def _child(settings: WorkerSettings, number: int) -> WorkerSettings:
    """All settings of a child, so that nothing depends on how the supervisor got its own."""
    own = {"worker_id": f"{settings.worker_id}-{number}", "web_port": settings.web_port and settings.web_port + number}
    return settings.model_copy(update=own | {"processes": 1})


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_supervisor = os.getpid()


def _die_with_parent() -> None:
    """Runs in the child before it becomes a worker."""
    assert _libc is not None
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != _supervisor:  # the supervisor died before the call
        os._exit(1)
