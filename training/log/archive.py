"""What training has read of the log, kept in Parquet files: the next retraining reads only what is new.

`<archive>/<topic>/<topic id>/partition=00003/<begin>-<end>.parquet` has the records of that partition with offsets in
begin..end-1 that are worth keeping, see `training.log.columns`. What is archived is told by the names of the files
alone, so there is nothing that could disagree with them. A file appears complete or not at all.

No file reaches over a border between windows of `WINDOW` offsets. Within a window small files are merged as a binary
counter counts: a window of n retrainings has about log2 n files, a full one has a single file.

Several jobs may use one archive at a time. What two of them wrote counts once, whichever files they cut it into: of an
offset that is in several files, the first in the order of `Piece` is taken.
"""

import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import UnsupportedOperation
from typing import Final, NamedTuple
from uuid import uuid4

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

from schemas.malformed import Malformed
from schemas.settings import Refused
from training.log.columns import ENCODED, SCHEMA, Forgotten, forgotten, living

WINDOW: Final = 1 << 20
"""offsets; a full window is a file of 5 to 60 MB, and is read into memory at once"""

_NAME: Final = re.compile(r"(\d{20})-(\d{20})\.parquet")
_TEMPORARY: Final = re.compile(r"\.[0-9a-f]{32}\.tmp")
_PARTITION: Final = re.compile(r"partition=(\d+)")
_ABANDONED: Final = timedelta(days=1)
"""age at which a file that was never completed belongs to no job that still runs"""
_STORED: Final = pa.schema([field.with_type(pa.string()) if field.name in ENCODED else field for field in SCHEMA])
"""Without dictionaries: Arrow's would be written with the names of users who have no row any more."""
_OLDER: Final = -1
"""the partition of what another topic of the same name had: before all of the present one"""
_LISTINGS: Final = 10


class Piece(NamedTuple):
    """A file: the offsets begin..end-1 of a partition, those of them that were worth keeping."""

    begin: int
    end: int
    path: str


class Archive:
    """The archived records of one topic; a topic that was deleted and made again has another id and another archive.

    Raises:
        Refused: there is no such file system, or the package for it is missing.
    """

    def __init__(self, url: str, topic: str, topic_id: str) -> None:
        self._fs: fsspec.AbstractFileSystem
        try:
            self._fs, root = url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise Refused(f"archive {url} cannot be opened: {error}") from error
        self._topic = posixpath.join(root, topic)
        # librdkafka writes ids in the base64 that has slashes; this is how Kafka's own tools show them
        self._present = posixpath.join(self._topic, topic_id.replace("+", "-").replace("/", "_"))

    def missing(self, partition: int, low: int, high: int) -> list[tuple[int, int]]:
        """Ranges of low..high-1 that no file has, cut at the borders of windows, in order."""
        found, position = [], low
        for piece in [*self.pieces(partition), Piece(high, high, "")]:
            while position < min(piece.begin, high):
                end = min(piece.begin, high, (position // WINDOW + 1) * WINDOW)
                found.append((position, end))
                position = end
            position = max(position, piece.end)
        return found

    def end(self, partition: int) -> int:
        """The offset after the last one that is archived; 0 if none is."""
        return max((piece.end for piece in self.pieces(partition)), default=0)

    def directory(self, partition: int) -> str:
        """Where the files of a partition are."""
        return posixpath.join(self._present, f"partition={partition:05d}")

    def write(self, partition: int, begin: int, end: int, table: pa.Table) -> None:
        """Keep the records of begin..end-1, a range as `missing` gives them.

        Raises:
            OSError: the archive cannot be written.
        """
        directory = self.directory(partition)
        self._fs.makedirs(directory, exist_ok=True)
        self._write(posixpath.join(directory, f"{begin:020d}-{end:020d}.parquet"), table)

    def tombstones(self) -> Forgotten:
        """The last tombstone of each user.

        Raises:
            Malformed: a file is damaged.
            OSError: the archive cannot be read.
        """
        found: dict[bytes, tuple[int, int]] = {}
        for partition in self._partitions():
            for _, _, table in self._files(partition, ["offset", "forgotten"]):
                found.update(forgotten(partition, table))
        return found

    def read(self, partition: int, end: int, tombstones: Forgotten) -> pa.Table:
        """The records below the offset `end`, in order, without the events that `tombstones` forget.

        Files that have such events are written anew without them.

        Raises:
            Malformed: a file is damaged.
            OSError: the archive cannot be read or written.
        """
        tables = [SCHEMA.empty_table()]
        for piece, position, table in self._files(partition):
            kept = self._forget(piece, table, partition, tombstones)
            offsets = kept["offset"].to_numpy()
            tables.append(kept.filter(pa.array((offsets >= position) & (offsets < end))))
        return pa.concat_tables(tables)

    def forget(self, partition: int, tombstones: Forgotten) -> None:
        """Write the files that have events which `tombstones` forget anew without them.

        Raises:
            Malformed, OSError: as `read`.
        """
        for piece, _, table in self._files(partition):
            self._forget(piece, table, partition, tombstones)

    def forget_in_older_topics(self, tombstones: Forgotten) -> None:
        """Remove what users with a tombstone did on deleted topics of this name.

        Raises:
            Malformed, OSError: as `read`.
        """
        if tombstones:
            for path in self._list(self._topic):
                if path != self._present:
                    for piece in self._all_pieces(path):
                        self._forget(piece, self._load(piece), _OLDER, tombstones)

    def tidy(self, partition: int) -> None:
        """Merge small files, and remove what others have superseded or never completed.

        Raises:
            Malformed, OSError: as `read`.
        """
        groups: list[list[Piece]] = []
        position = 0
        for piece in self.pieces(partition):
            if piece.end <= position:
                self._remove(piece.path)
                continue
            groups.append([piece])
            while len(groups) > 1 and _belong_together(groups[-2], groups[-1]):
                groups[-2:] = [groups[-2] + groups[-1]]
            position = piece.end
        for group in groups:
            if len(group) > 1:
                with suppress(FileNotFoundError):  # another job has done it
                    self._merge(partition, group)
        self._sweep(partition)

    def events_of(self, user_id: str) -> int:
        """Events of this user in any file, of deleted topics of this name as well.

        Raises:
            Malformed, OSError: as `read`.
        """
        return sum(
            pc.sum(pc.equal(self._load(piece, ["user_id"])["user_id"].cast(pa.string()), user_id)).as_py() or 0
            for path in self._list(self._topic)
            for piece in self._all_pieces(path)
        )

    def pieces(self, partition: int) -> list[Piece]:
        """The files of a partition by the offset they begin with, of those the longest first."""
        return self._pieces(self.directory(partition))

    def _pieces(self, directory: str) -> list[Piece]:
        paths = self._list(directory)
        named = [(found, path) for path in paths if (found := _NAME.fullmatch(posixpath.basename(path)))]
        pieces = [Piece(int(found[1]), int(found[2]), path) for found, path in named]
        return sorted(pieces, key=lambda piece: (piece.begin, -piece.end))

    def _all_pieces(self, topic: str) -> Iterator[Piece]:
        for directory in self._list(topic):
            yield from self._pieces(directory)

    def _partitions(self) -> list[int]:
        names = map(posixpath.basename, self._list(self._present))
        return sorted(int(found[1]) for name in names if (found := _PARTITION.fullmatch(name)))

    def _list(self, directory: str) -> list[str]:
        try:
            return sorted(path.rstrip("/") for path in self._fs.ls(directory, detail=False))
        except FileNotFoundError:
            return []

    def _files(self, partition: int, columns: list[str] | None = None) -> Iterator[tuple[Piece, int, pa.Table]]:
        """Each file that adds something, the offset from which on it does, and all that it has."""
        pieces, position, listings = self.pieces(partition), 0, 1
        while pieces:
            piece = pieces.pop(0)
            if piece.end <= position:
                continue
            try:
                table = self._load(piece, columns)
            except FileNotFoundError:  # another job has merged it into a longer one
                if listings == _LISTINGS:
                    raise
                pieces, listings = self.pieces(partition), listings + 1
                continue
            yield piece, position, table
            position = piece.end

    def _load(self, piece: Piece, columns: list[str] | None = None) -> pa.Table:
        with self._fs.open(piece.path, "rb") as file:
            try:
                return pq.ParquetFile(file, read_dictionary=list(ENCODED)).read(columns)
            except pa.ArrowException as error:
                rule = "must be a Parquet file; remove it, and what the log still has of it is read again"
                raise Malformed(piece.path, str(error), rule) from error

    def _forget(self, piece: Piece, table: pa.Table, partition: int, tombstones: Forgotten) -> pa.Table:
        kept = living(table, partition, tombstones)
        if len(kept) < len(table):
            self._write(piece.path, kept)
        return kept

    def _merge(self, partition: int, group: list[Piece]) -> None:
        tables, position = [], 0
        for piece in group:
            table = self._load(piece)
            tables.append(table.filter(pa.array(table["offset"].to_numpy() >= position)))
            position = piece.end
        self.write(partition, group[0].begin, group[-1].end, pa.concat_tables(tables))
        for piece in group:
            if (piece.begin, piece.end) != (group[0].begin, group[-1].end):
                self._remove(piece.path)

    def _write(self, path: str, table: pa.Table) -> None:
        temporary = posixpath.join(posixpath.dirname(path), f".{uuid4().hex}.tmp")
        with self._fs.open(temporary, "wb") as file:
            pq.write_table(table.cast(_STORED), file, compression="zstd")
            file.flush()
            with suppress(UnsupportedOperation):  # an object store's file is durable when it is closed
                os.fsync(file.fileno())
        self._fs.mv(temporary, path)

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):  # by another job
            self._fs.rm_file(path)

    def _sweep(self, partition: int) -> None:
        for path in self._list(self.directory(partition)):
            if _TEMPORARY.fullmatch(posixpath.basename(path)):
                with suppress(FileNotFoundError):
                    if datetime.now(UTC) - self._fs.modified(path) > _ABANDONED:
                        self._fs.rm_file(path)


def _belong_together(before: list[Piece], after: list[Piece]) -> bool:
    """Whether two neighbouring groups of files should be one file."""
    begin, border, end = before[0].begin, before[-1].end, after[-1].end
    if after[0].begin > border or begin // WINDOW != (end - 1) // WINDOW:
        return False
    return after[0].begin < border or border - begin <= end - border or end % WINDOW == 0
