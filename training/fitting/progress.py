"""What a person sees while the log is read and a model trains."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.fitting.fit import Moment


@contextmanager
def reading_bar() -> Iterator[Callable[[float], None]]:
    """A bar on stderr, given the share that is read (0 to 1); silent where stderr is not a terminal."""
    console = Console(stderr=True)
    columns = TextColumn("reading"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading", total=1.0)
        yield lambda share: progress.update(task, completed=share)


class ProgressBar:
    """A bar on stderr with the loss and the validation metrics; silent where stderr is not a terminal."""

    def __init__(self, title: str) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn(title),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("epoch {task.fields[epoch]} loss {task.fields[loss]:.3f} {task.fields[found]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=1.0, epoch=0, loss=float("nan"), found="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, moment: Moment) -> None:
        """Show how far the training is."""
        self._progress.update(self._task, completed=moment.progress, epoch=moment.epoch, loss=moment.loss)
        if moment.metrics:
            found = f"recall@10 {moment.metrics.recall_at_10:.4f} ndcg@10 {moment.metrics.ndcg_at_10:.4f}"
            self._progress.update(self._task, found=found)
