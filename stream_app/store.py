"""The users' records of one partition on disk: a RocksDB.

Keys: ``0x01`` + the user's key for records, ``0x00`` + a name for the store's own. A batch of records and the positions
that belong to it become durable together or not at all.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from mmap import PAGESIZE, mmap
from pathlib import Path
from typing import Any, Final

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DbClosedError,
    DBCompressionType,
    Env,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from schemas.settings import Refused

_USER: Final = b"\x01"
_CHANGELOG_POSITION: Final = b"\x00changelog"
_INPUT_POSITION: Final = b"\x00input"
_IDENTITY: Final = b"\x00identity"
_FLUSH: Final = b"\x00flush"
"""number of the flush that the records before it belong to: the last thing that goes into the flushed file"""
_FLUSHED: Final = b"\x00flushed"
"""number of the last flush: the first thing that comes after it"""
_MIB: Final = 1 << 20
_CACHE_BYTES: Final = 32 * _MIB
"""RocksDB's own default is 2 GiB for each store"""
_FLUSH_BYTES: Final = 24 * _MIB
_WRITE_BUFFER_BYTES: Final = 32 * _MIB
_MOST_UNMERGED_FILES: Final = 10_000
"""before writes wait for merging; RocksDB's own is 36, which a bulk of 1.2 GB leaves"""
_FLUSHING_THREADS: Final = 4
"""which write out full buffers, of all stores of the process; RocksDB has one, which a recovery would wait for"""
_READ_ONLY: Final = ("Read-only file system", "Permission denied", "Operation not permitted")


class Store:
    """Records by user key, with the changelog position that they reflect and the input position that is done."""

    def __init__(self, path: Path, cache: Cache | None = None) -> None:
        """Open or create the store in the directory `path`.

        Args:
            path: of the store.
            cache: of blocks, shared by all stores that are given it; one of 32 MiB if omitted.

        Raises:
            Refused: it is damaged, or cannot be written.
            OSError: RocksDB cannot open it now: in use, or the disk is full.
        """
        self.path = path
        self._cache = cache or Cache(_CACHE_BYTES)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = self._open()
        self._unlogged = WriteOptions()
        self._unlogged.disable_wal = True
        self._uncached = ReadOptions()
        self._uncached.fill_cache(False)  # a walk through all records would drive out those in use
        self._unmerged = False
        self._flushes = self._position(_FLUSH)
        self._unflushed_bytes = 0
        if self._position(_FLUSHED) > self._flushes:
            self._db.close()
            raise _damaged(path, "it lacks a file of records that was there")
        self.changelog_position = self._position(_CHANGELOG_POSITION)
        """next offset of the changelog that is not reflected here"""
        self.input_position = self._position(_INPUT_POSITION)
        """every input record below it is done: applied, and its list acknowledged"""

    def get(self, keys: list[bytes]) -> list[bytes | None]:
        """The users' records, None where there is none."""
        values: list[bytes | None] = self._get([_USER + key for key in keys])
        return values

    def write(
        self,
        records: Mapping[bytes, bytes | None],
        changelog_position: int,
        input_position: int | None = None,
        *,
        logged: bool = True,
    ) -> None:
        """Put records (None deletes) and positions in one batch.

        Without RocksDB's log the batch is durable only after `flush`: faster, for bulk recovery.
        """
        batch = WriteBatch(raw_mode=True)
        for key, value in records.items():
            if value is None:
                batch.delete(_USER + key)
            else:
                batch.put(_USER + key, value)
                self._unflushed_bytes += len(value)
        batch.put(_CHANGELOG_POSITION, changelog_position.to_bytes(8, "little"))
        if input_position is not None:
            batch.put(_INPUT_POSITION, input_position.to_bytes(8, "little"))
        try:
            if logged:
                self._db.write(batch)
            else:
                self._db.write(batch, self._unlogged)
        except Exception as error:
            raise _told(self.path, error) from error
        self.changelog_position = changelog_position
        if input_position is not None:
            self.input_position = input_position
        if logged and self._unflushed_bytes > _FLUSH_BYTES:
            self._flush(wait=False)

    def flush(self) -> None:
        """Make unlogged batches durable.

        Must come before the next logged one: a crash would otherwise keep the later position without the records.
        """
        self._flush(wait=True)

    def _flush(self, *, wait: bool) -> None:
        """Write a file of records, and see at the next opening that it is there.

        RocksDB takes a manifest whose end is missing for whole: the files that only the end names are forgotten, with
        all their records, and the log goes on behind the gap.
        """
        self._flushes += 1
        number = self._flushes.to_bytes(8, "little")
        try:
            self._db.put(_FLUSH, number)
            self._db.flush(wait)
            self._db.put(_FLUSHED, number)
        except Exception as error:
            raise _told(self.path, error) from error
        self._unflushed_bytes = 0

    def begin_bulk(self) -> None:
        """Take in very much that is not logged: past the page cache, and nothing is merged until `merge_again`.

        Copying into the page cache would take longer than all the rest of the records' way to the disk.
        """
        self._reopen_unmerged(direct=_takes_direct_writes(self.path))
        self._unmerged = True

    def end_bulk(self) -> None:
        """Write as always again, but do not merge yet; everything is flushed. Nothing happens if no bulk was begun."""
        if self._unmerged:
            self._reopen_unmerged(direct=False)

    def merge_again(self) -> None:
        """Merge in the background what a bulk has written; a store that is opened does, too."""
        if self._unmerged:
            self._db.set_options({"disable_auto_compactions": "false"})
            self._unmerged = False

    def _reopen_unmerged(self, *, direct: bool) -> None:
        try:
            self._db.close()
        except Exception as error:
            raise _told(self.path, error) from error
        self._db = self._open(merging=False, direct=direct)

    def _open(self, *, merging: bool = True, direct: bool = False) -> Rdict:
        options = _options(self._cache)
        options.set_disable_auto_compactions(not merging)
        options.set_use_direct_io_for_flush_and_compaction(direct)
        try:
            # the name, or a store that exists would keep the options that it was left with
            return Rdict(str(self.path), options, column_families={"default": options})
        except Exception as error:  # rocksdict raises nothing narrower
            raise _told(self.path, error, opening=True) from error

    def compact(self) -> None:
        """Merge everything into one level: what a store comes to when it is left alone for long."""
        self.flush()
        self._db.compact_range(None, None)

    @property
    def identity(self) -> bytes | None:
        """What the store says it belongs to; None for a new one."""
        value: bytes | None = self._get(_IDENTITY)
        return value

    @identity.setter
    def identity(self, value: bytes) -> None:
        self._db.put(_IDENTITY, value)

    def stamp(self, identity: bytes, changelog_position: int) -> None:
        """Say in one batch to what the store belongs from now on, and what of that changelog it reflects."""
        batch = WriteBatch(raw_mode=True)
        batch.put(_IDENTITY, identity)
        batch.put(_CHANGELOG_POSITION, changelog_position.to_bytes(8, "little"))
        self._db.write(batch)
        self.changelog_position = changelog_position

    def items(self, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The users' keys and records by key, of all keys or of those behind `after`."""
        first = _USER + after + b"\x00" if after else _USER
        try:
            pairs: Iterable[tuple[bytes, bytes]] = self._db.items(from_key=first, read_opt=self._uncached)
            for key, value in pairs:
                yield key[1:], value
        except Exception as error:
            raise _told(self.path, error) from error

    @property
    def estimated_records(self) -> int:
        """About how many records there are: one that was written again may count twice until it is merged."""
        return int(self._db.property_int_value("rocksdb.estimate-num-keys") or 0)

    def close(self) -> None:
        """Close it; another process may open it then."""
        with suppress(DbClosedError):  # it could not be opened anew
            self._db.close()

    def _get(self, keys: bytes | list[bytes]) -> Any:
        try:
            return self._db.get(keys)
        except Exception as error:
            raise _told(self.path, error) from error

    def _position(self, key: bytes) -> int:
        value = self._get(key)
        return int.from_bytes(value, "little") if value else 0


def _damaged(path: Path, why: str) -> Refused:
    return Refused(f"{path} is damaged, `rm -r {path}` lets the worker build it anew from the changelog: {why}")


def _told(path: Path, error: Exception, *, opening: bool = False) -> Exception:
    """What RocksDB says, by what mends it: a command, or a restart once something else is right again."""
    text = " ".join(str(error).split())
    if any(reason in text for reason in _READ_ONLY):
        return Refused(f"{path} cannot be written, make it writable or set another data_dir: {text}")
    if "lock hold by" in text or "While lock file" in text:
        return OSError(f"{path} cannot be opened, another worker runs with this worker id and data dir: {text}")
    # a file that vanishes while the store is open: the next opening tells whether the others are still there
    if "Corruption" in text or (opening and "No such file" in text):
        return _damaged(path, text)
    return OSError(f"{path} cannot be {'opened' if opening else 'used'}: {text}")


def _takes_direct_writes(directory: Path) -> bool:
    """Whether the file system can write past the page cache; one in memory may not."""
    try:
        with tempfile.NamedTemporaryFile(dir=directory) as file:
            past_the_cache = os.open(file.name, os.O_WRONLY | getattr(os, "O_DIRECT", 0))
            try:
                os.write(past_the_cache, mmap(-1, PAGESIZE))  # aligned, as it must be
            finally:
                os.close(past_the_cache)
    except OSError:
        return False
    return True


def _options(cache: Cache) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(3)
    options.set_max_open_files(256)
    options.set_compression_type(DBCompressionType.none())  # states are random floats: it would cost and save nothing
    options.set_level_zero_slowdown_writes_trigger(_MOST_UNMERGED_FILES)
    options.set_level_zero_stop_writes_trigger(_MOST_UNMERGED_FILES)
    options.set_keep_log_file_num(2)
    environment = Env()  # there is one for all
    environment.set_high_priority_background_threads(_FLUSHING_THREADS)
    options.set_env(environment)
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_bloom_filter(10, False)
    options.set_block_based_table_factory(table)
    return options
