"""The files of a recording, opened one by one: whole, compressed, cut off or damaged ones.

`rosbags` parses them. What it does not do is done here: a limit on what compressed data may expand
to, and reading what is left of a file that was never closed or has lost its end.
"""

import errno
import heapq
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, storage_mcap
from rosbags.rosbag2.storage_mcap import zstd
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader, apsw
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from fpt_ros.bag_mcap import indexed_messages, remaining_messages
from fpt_ros.bag_sqlite import SqliteRemains
from fpt_ros.core.errors import machine_trouble
from fpt_ros.sqlite_pages import looks_finished

MAX_EXPANDED_BYTES = 256 << 20
"""Most that a compressed message or chunk may expand to: more than any camera's image has."""
_MAX_FILE_RATIO = 100
"""A compressed file may become so many times larger: files with images do not."""
_SMALL_FILE_BYTES = 64 << 20
"""Up to this size it does not matter."""
_SPARE_DISK_BYTES = 256 << 20
_MAX_IDLE_FILES = 4

_NOT_METADATA = (YAMLError, KeyError, TypeError, AttributeError, ValueError, RecursionError)
# Views, virtual tables and triggers. Indexes that SQLite makes by itself have no text.
_NO_TABLES = """
    SELECT name FROM sqlite_master WHERE sql NOT LIKE 'CREATE TABLE %'
    AND sql NOT LIKE 'CREATE INDEX %' AND sql NOT LIKE 'CREATE UNIQUE INDEX %'
"""
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # serialised messages never begin like this

Message = tuple[Connection, int, bytes]  # with the time of recording, ns
Stream = Iterator[Message]


class FileReader(Protocol):
    """What is used of `rosbags.rosbag2.Reader`. Times are in ns; end_time is after the last."""

    @property
    def connections(self) -> list[Connection]: ...
    @property
    def message_count(self) -> int: ...
    @property
    def start_time(self) -> int: ...
    @property
    def end_time(self) -> int: ...
    def messages(
        self, connections: list[Connection], start: int | None, stop: int | None, /
    ) -> Stream: ...


@dataclass(frozen=True)
class Part:
    """A file of a recording, as it was found to be. Times are in ns; end_ns is after the last."""

    file: Path
    connections: Sequence[Connection]
    message_count: int
    start_ns: int
    end_ns: int


class BagFiles:
    """The files of a rosbag2 folder, or one of them: `parts` are those that can be read.

    Each is opened when its time comes, and the few used last stay open: a day in parts of a minute
    is more files than a process may have, and expanded, more than a disk may hold.

    Raises whatever the parser meets from the constructor, when nothing can be read; and wherever
    the machine, and not a file, is to blame, OSError (see `machine_trouble`): that is no damage.
    """

    def __init__(self, path: Path, scratch: Path | None = None) -> None:
        """scratch: where compressed files are expanded; by default where `tempfile` puts things."""
        self.parts: list[Part] = []
        self._scratch = scratch
        self._damages: list[str] = []
        self._left_out: dict[str, tuple[int, str]] = {}  # messages by file, and why
        self._bad_chunks: dict[str, dict[int, str]] = {}  # by file and position, and why
        self._idle: dict[Path, tuple[FileReader, ExitStack]] = {}  # the one used last comes last
        self._max_idle = _MAX_IDLE_FILES
        files, claimed = _storage_files(path, self._damages)
        try:
            for number, file in enumerate(files, 1):
                self._find(file, must_open=number == len(files) and not self.parts)
        except BaseException:
            self.close()
            raise
        there = sum(part.message_count for part in self.parts)
        if there < claimed:
            self._damages.append(
                f"{there} of the {claimed} messages that were recorded can be read"
            )

    @property
    def damages(self) -> list[str]:
        """What cannot be read, as far as it is known by now."""
        return [
            *self._damages,
            *(
                f"{len(bad)} chunks of {name} are damaged and left out, the first at byte "
                f"{min(bad)}: {bad[min(bad)]}"
                for name, bad in self._bad_chunks.items()
                if bad
            ),
            *(
                f"{count} compressed messages of {name} are damaged and left out: {reason}"
                for name, (count, reason) in self._left_out.items()
            ),
        ]

    def messages(
        self, topics: Collection[str] | None, start_ns: int | None, stop_ns: int | None
    ) -> Stream:
        """Messages recorded in [start_ns, stop_ns), in order of time; None = all."""
        streams = [
            self._timed(part, topics, start_ns, stop_ns)
            for part in self.parts
            if part.message_count
            and (start_ns is None or start_ns < part.end_ns)
            and (stop_ns is None or part.start_ns < stop_ns)
            and (topics is None or any(c.topic in topics for c in part.connections))
        ]
        for _, message in heapq.merge(*streams, key=lambda item: item[0]):
            if message is not None:
                yield message

    def close(self) -> None:
        """Close the files, and remove what they were expanded to."""
        self._max_idle = 0
        self.close_idle()

    def close_idle(self, keep: int = 0) -> None:
        """Close the files that nobody reads at the moment, but for the few used last."""
        while len(self._idle) > keep:
            _, stack = self._idle.pop(next(iter(self._idle)))
            stack.close()

    def _find(self, file: Path, must_open: bool) -> None:
        try:
            with self._opened(file, self._damages) as reader:
                times_ns = reader.start_time, reader.end_time
                part = Part(file, list(reader.connections), reader.message_count, *times_ns)
        except Exception as error:  # the parser meets untrusted bytes and raises many types
            if must_open or machine_trouble(error):
                raise
            self._damages.append(f"{file.name} cannot be read: {error or type(error).__name__}")
        else:
            self.parts.append(part)

    @contextmanager
    def _opened(self, file: Path, damages: list[str]) -> Iterator[FileReader]:
        """A reader that nobody else uses meanwhile."""
        is_idle = file in self._idle
        reader, stack = self._idle.pop(file) if is_idle else self._make_room_and_open(file, damages)
        try:
            yield reader
        finally:
            if file in self._idle:
                stack.close()
            else:
                self._idle[file] = reader, stack
            self.close_idle(self._max_idle)

    def _make_room_and_open(self, file: Path, damages: list[str]) -> tuple[FileReader, ExitStack]:
        try:
            return self._open(file, damages)
        except OSError as error:
            if error.errno != errno.ENOSPC or not self._idle:
                raise
            self.close_idle()  # with what they were expanded to
            return self._open(file, damages)

    def _open(self, file: Path, damages: list[str]) -> tuple[FileReader, ExitStack]:
        with ExitStack() as stack:
            is_packed = file.suffix == ".zstd"
            plain = _expanded(file, stack, self._scratch, damages) if is_packed else file
            bad_chunks = self._bad_chunks.setdefault(file.name, {})
            return _reader(plain, stack, damages, bad_chunks), stack.pop_all()

    def _timed(
        self,
        part: Part,
        topics: Collection[str] | None,
        start_ns: int | None,
        stop_ns: int | None,
    ) -> Iterator[tuple[int, Message | None]]:
        """Messages of one file with their times; before the file is opened, when it begins."""
        yield part.start_ns, None
        name, bad = part.file.name, 0
        with self._opened(part.file, []) as reader:
            wanted = [c for c in reader.connections if topics is None or c.topic in topics]
            for connection, stamp_ns, data in self._stored(name, reader, wanted, start_ns, stop_ns):
                if data[:4] == _ZSTD_MAGIC:  # metadata.yaml tells it too, but may be missing
                    try:
                        data = _bounded_zstd(data, MAX_EXPANDED_BYTES)
                    except (ValueError, zstd.ZstdError) as error:
                        bad += 1
                        if bad > self._left_out.get(name, (0, ""))[0]:  # by the reading with most
                            self._left_out[name] = bad, str(error)
                        continue
                yield stamp_ns, (connection, stamp_ns, data)

    def _stored(
        self,
        name: str,
        reader: FileReader,
        wanted: list[Connection],
        start_ns: int | None,
        stop_ns: int | None,
    ) -> Stream:
        """What is stored. Where SQLite stops at a damage, the pages after it are searched."""
        last_ns, count = start_ns, 0  # the time given last, and how often
        try:
            for item in reader.messages(wanted, start_ns, stop_ns):
                last_ns, count = item[1], count + 1 if item[1] == last_ns else 1
                yield item
        except Exception as error:  # the parser meets untrusted bytes and raises many types
            file = getattr(reader, "path", None)
            if machine_trouble(error) or not isinstance(file, Path) or file.suffix != ".db3":
                raise
            damage = f"{name} is damaged, and read without what that concerns: {error}"
            if damage not in self._damages:
                self._damages.append(damage)
            by_id = {connection.id: connection for connection in wanted}
            with SqliteRemains(file, MAX_EXPANDED_BYTES) as remains:
                left = [c for c in remains.connections if c.id in by_id]
                for connection, stamp_ns, data in remains.messages(left, last_ns, stop_ns):
                    if stamp_ns == last_ns and count:
                        count -= 1
                    else:
                        yield by_id[connection.id], stamp_ns, data


# ---- which files ------------------------------------------------------------------------------


def is_storage_file(file: Path) -> bool:
    """Whether a file's name is that of a recording's data, compressed or not."""
    plain = Path(file.stem) if file.suffix == ".zstd" else file
    return plain.suffix in (".mcap", ".db3")


def _storage_files(path: Path, damages: list[str]) -> tuple[list[Path], int]:
    """Files of a recording, and how many messages it should hold, if that is known."""
    if not path.exists():
        raise FileNotFoundError("no such file or folder")
    if path.is_file():
        return [path], 0
    named = sorted(file for file in path.iterdir() if is_storage_file(file))
    found = [file for file in named if file.is_file()]
    metadata = path / "metadata.yaml"
    if metadata.is_file():
        try:
            info = YAML(typ="safe").load(metadata.read_text())["rosbag2_bagfile_information"]
            files = [path / Path(name).name for name in info["relative_file_paths"]]
            claimed = int(info.get("message_count", 0))
        except _NOT_METADATA as error:
            if not found:
                raise ValueError(f"metadata.yaml is damaged: {error}") from error
            damages.append("metadata.yaml is damaged; the files beside it are read")
            return found, 0
        missing = [file.name for file in files if not file.is_file()]
        if missing and len(missing) == len(files):
            raise FileNotFoundError(f"metadata.yaml names files that are missing: {missing}")
        if missing:
            damages.append(f"metadata.yaml names files that are missing: {missing}")
        return [file for file in files if file.is_file()], claimed
    if found:
        damages.append(
            "no metadata.yaml: the recording may not have been closed; its files are read, and "
            f"`ros2 bag reindex {path.name}` lets ROS 2 read them too"
        )
        damages += [f"{file.name} is not there" for file in named if file not in found]  # a link
        return found, 0
    raise FileNotFoundError("the folder holds neither metadata.yaml nor a .mcap or .db3 file")


def _expanded(file: Path, stack: ExitStack, scratch: Path | None, damages: list[str]) -> Path:
    """Decompress a file, as far as it goes, into a temporary folder: databases are no streams."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fpt_bag_", dir=scratch)))
    plausible = max(_SMALL_FILE_BYTES, _MAX_FILE_RATIO * file.stat().st_size)
    room = max(0, shutil.disk_usage(folder).free - _SPARE_DISK_BYTES)
    plain = folder / file.stem
    written = 0
    with zstd.open(file, "rb") as source, plain.open("wb") as target:
        while block := _next_block(source, file.name, damages):
            written += len(block)
            if written > plausible:
                raise ValueError(
                    f"{file.name} expands to more than {plausible / 1e6:.0f} MB: more than "
                    f"{_MAX_FILE_RATIO} times its size"
                )
            if written > room:
                raise OSError(
                    errno.ENOSPC,
                    f"{file.name} expands to more than the {room / 1e6:.0f} MB that "
                    f"{folder.parent} has to spare",
                )
            target.write(block)
    return plain


def _next_block(source: Any, name: str, damages: list[str]) -> bytes:
    try:
        return source.read(1 << 16)
    except (EOFError, zstd.ZstdError) as error:
        damages.append(f"{name} is cut off or damaged, and only its beginning read: {error}")
        return b""


# ---- limits -----------------------------------------------------------------------------------


def _bounded_zstd(data: bytes, limit: int) -> bytes:
    return _bounded(zstd.ZstdDecompressor, data, limit)


def _bounded_lz4(data: bytes, limit: int) -> bytes:
    from lz4.frame import LZ4FrameDecompressor

    return _bounded(LZ4FrameDecompressor, data, limit)


def _bounded(make: Callable[[], Any], data: bytes, limit: int) -> bytes:
    """Decompress a frame to at most `limit` bytes. Raises ValueError when there is more.

    Recorders write one frame per chunk or message: a million empty ones expand to nothing, but each
    takes its time.
    """
    if limit > MAX_EXPANDED_BYTES:
        raise ValueError(
            f"compressed data claims {limit} bytes; up to {MAX_EXPANDED_BYTES} are accepted"
        )
    frame = make()
    whole: bytes = frame.decompress(data, max_length=limit + 1)
    if len(whole) > limit:
        raise ValueError(f"compressed data expands to more than {limit} bytes")
    if not frame.eof:
        raise ValueError("compressed data is cut off")
    if frame.unused_data:
        raise ValueError("compressed data goes on after its end")
    return whole


# The parser looks its decompressors up here, and calls them with the size that a chunk claims.
storage_mcap.DECOMPRESSORS.update(zstd=_bounded_zstd, lz4=_bounded_lz4)


# ---- files without an end ---------------------------------------------------------------------


def _reader(
    file: Path, stack: ExitStack, damages: list[str], bad_chunks: dict[int, str]
) -> FileReader:
    reason = ""
    claimed: int | None = None
    try:
        if file.suffix != ".db3":
            messages, claimed = indexed_messages(file, MAX_EXPANDED_BYTES, bad_chunks)
            if messages:
                return stack.enter_context(messages)
        elif looks_finished(file):
            reader = Reader(_safely_named(file, stack))
            reader.storage = _Database(reader.path)
            return stack.enter_context(reader)
    except Exception as error:  # the parser meets untrusted bytes and raises many types
        if machine_trouble(error) or file.suffix not in (".db3", ".mcap"):
            raise
        reason = f" ({error or type(error).__name__})"
    remains: FileReader
    if file.suffix == ".db3":
        remains, extent = _sqlite_remains(file, stack)
    else:
        remains, extent = _mcap_remains(file, stack, bad_chunks)
    if claimed is None or remains.message_count < claimed:
        damages.append(
            f"{file.name} was not closed, or is cut off or damaged{reason}: {extent} can be read"
        )
    return remains


class _Database(Sqlite3Reader):
    """A database that is read only if its tables hold what they give, and none of it is computed.

    Else a small one could give any amount, and the file decide what is run.
    """

    def open(self) -> None:
        """Open it. Raises ValueError when it defines more than tables with columns, and indexes."""
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        with closing(apsw.Connection(f"file:{self.path}?immutable=1", flags=flags)) as database:
            for (name,) in database.execute(_NO_TABLES):
                raise ValueError(f"{name} is neither a table nor an index")
            for table in ("schema", "topics", "message_definitions", "messages"):
                for _, column, *_, hidden in database.execute(f"PRAGMA table_xinfo({table})"):
                    if hidden:
                        raise ValueError(f"the column {column} of {table} is computed")
        super().open()
        assert self.dbconn
        self.dbconn.limit(apsw.SQLITE_LIMIT_LENGTH, MAX_EXPANDED_BYTES)


def _safely_named(file: Path, stack: ExitStack) -> Path:
    """A database by a path that means itself in a URI, which `rosbags` makes of it."""
    if file.suffix != ".db3" or not set("#?%") & set(str(file)):
        return file
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fpt_bag_"))
    link = Path(folder) / "bag.db3"
    link.symlink_to(file.resolve())
    return link


def _sqlite_remains(file: Path, stack: ExitStack) -> tuple[FileReader, str]:
    try:
        reader = stack.enter_context(SqliteRemains(file, MAX_EXPANDED_BYTES))
    except ValueError as error:
        raise ValueError(f"{file.name} cannot be read: {error}") from error
    there, claimed = reader.there_bytes, reader.claimed_bytes
    size = f" of {there / 1e6:.1f} of {claimed / 1e6:.1f} MB" if there < claimed else ""
    return reader, f"{reader.message_count} messages{size}"


def _mcap_remains(
    file: Path, stack: ExitStack, bad_chunks: dict[int, str]
) -> tuple[FileReader, str]:
    size = file.stat().st_size
    if not size:
        raise ValueError(f"{file.name} is empty: its recorder ended before it had written anything")
    try:
        messages, there_bytes = remaining_messages(file, MAX_EXPANDED_BYTES, bad_chunks)
    except OSError:
        raise
    except Exception as error:  # the parser meets untrusted bytes and raises many types
        raise ValueError(f"{file.name} cannot be read: {error}") from error
    return stack.enter_context(messages), f"{there_bytes / 1e6:.1f} of {size / 1e6:.1f} MB"
