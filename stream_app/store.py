"""The users' records of one partition on disk: a RocksDB.

Keys: ``0x01`` + the user's key for records, ``0x00`` + a name for the store's own. A batch of records and the positions
that belong to it become durable together or not at all.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, WriteBatch, WriteOptions

_USER: Final = b"\x01"
_CHANGELOG_POSITION: Final = b"\x00changelog"
_INPUT_POSITION: Final = b"\x00input"
_IDENTITY: Final = b"\x00identity"
_MIB: Final = 1 << 20


class Store:
    """Records by user key, with the changelog position that they reflect and the input position that is done."""

    def __init__(self, path: Path) -> None:
        """Open or create the store in the directory `path`.

        Raises:
            OSError: RocksDB cannot open it: in use, damaged, no permission.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        try:
            self._db = Rdict(str(path), _options())
        except Exception as error:  # rocksdict raises nothing narrower
            hint = ", another worker runs with this worker id and data dir" if "lock" in str(error).lower() else ""
            raise OSError(f"{path} cannot be opened{hint}: {error}") from error
        self._unlogged = WriteOptions()
        self._unlogged.disable_wal = True
        self._deferred = False
        self.changelog_position = self._position(_CHANGELOG_POSITION)
        """next offset of the changelog that is not reflected here"""
        self.input_position = self._position(_INPUT_POSITION)
        """every input record below it is done: applied, and its list acknowledged"""

    def get(self, keys: list[bytes]) -> list[bytes | None]:
        """The users' records, None where there is none."""
        values: list[bytes | None] = self._db.get([_USER + key for key in keys])
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
        batch.put(_CHANGELOG_POSITION, changelog_position.to_bytes(8, "little"))
        if input_position is not None:
            batch.put(_INPUT_POSITION, input_position.to_bytes(8, "little"))
        if logged:
            self._db.write(batch)
        else:
            self._db.write(batch, self._unlogged)
        self.changelog_position = changelog_position
        if input_position is not None:
            self.input_position = input_position

    def flush(self) -> None:
        """Make unlogged batches durable.

        Must come before the next logged one: a crash would otherwise keep the later position without the records.
        """
        self._db.flush()

    def defer_compaction(self) -> None:
        """Do not merge what is written until `compact_again`: for bulk recovery; a store that is opened merges."""
        self._db.set_options({"disable_auto_compactions": "true"})
        self._deferred = True

    def compact_again(self) -> None:
        """Merge in the background what was written; nothing happens unless it was deferred."""
        if self._deferred:
            self._db.set_options({"disable_auto_compactions": "false"})
            self._deferred = False

    @property
    def identity(self) -> bytes | None:
        """What the store says it belongs to; None for a new one."""
        value: bytes | None = self._db.get(_IDENTITY)
        return value

    @identity.setter
    def identity(self, value: bytes) -> None:
        self._db.put(_IDENTITY, value)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All users' keys and records, by key."""
        pairs: Iterable[tuple[bytes, bytes]] = self._db.items(from_key=_USER)
        for key, value in pairs:
            yield key[1:], value

    def close(self) -> None:
        """Close it; another process may open it then."""
        self._db.close()

    def _position(self, key: bytes) -> int:
        value = self._db.get(key)
        return int.from_bytes(value, "little") if value else 0


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(32 * _MIB)
    options.set_max_write_buffer_number(3)
    options.set_max_open_files(256)
    options.set_compression_type(DBCompressionType.none())  # states are random floats: it would cost and save nothing
    options.set_keep_log_file_num(2)
    table = BlockBasedOptions()
    table.set_block_cache(_CACHE)
    table.set_bloom_filter(10, False)
    options.set_block_based_table_factory(table)
    return options


_CACHE: Final = Cache(256 * _MIB)
"""one block cache for all partitions of the process: RocksDB's own default is 2 GiB for each"""
