"""Reading and writing rosbag2 recordings without `ros2 bag`; no ROS needed here.

Messages stay serialised (CDR) from end to end: reading costs no decoding, and nothing that an
untrusted bag defines is compiled or executed.
"""

import errno
import os
import re
import struct
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rosbags.interfaces import Connection, ConnectionExtRosbag2, Qos
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from fpt_ros.bag_files import BagFiles
from fpt_ros.core.errors import FptError, InvalidInputError, machine_trouble
from fpt_ros.share import shared_folder

TYPE_NAME = re.compile(r"[a-z][a-z0-9_]*/msg/[A-Z][A-Za-z0-9]*")


class BagError(FptError):
    """A recording is missing, damaged, or in a format that cannot be read."""


@dataclass(frozen=True)
class BagTopic:
    """One topic of a recording, with what its recorded publishers offered."""

    name: str
    type_name: str  # e.g. "sensor_msgs/msg/Image"
    message_count: int
    qos: tuple[Qos, ...] = ()


class BagReader:
    """A rosbag2 folder, or one of its .mcap or .db3 files, compressed or not.

    Of a recording that was not closed, or is cut off or damaged, what is readable is read;
    `damages` says what is not.

    Raises:
        BagError: from any method; names the file and the reason.
        OSError: likewise, where not the recording but the machine is to blame: a full disk, a drive
            that is gone, too many open files.
    """

    def __init__(self, path: Path | str, scratch: Path | None = None) -> None:
        """Open it. scratch: where compressed files are expanded; default: as for `tempfile`."""
        self.path = Path(path)
        try:
            self._files = BagFiles(self.path, scratch)
        except Exception as error:  # the parser meets untrusted bytes and raises many types
            raise _read_error(self.path, error) from error
        filled = [part for part in self._files.parts if part.message_count]
        self.message_count = sum(part.message_count for part in filled)
        self.start_ns = min((part.start_ns for part in filled), default=0)
        self.end_ns = max((part.end_ns for part in filled), default=0)
        self._topics = _merged_topics(c for part in self._files.parts for c in part.connections)

    @property
    def damages(self) -> list[str]:
        """What cannot be read of the recording, known so far."""
        return self._files.damages

    @property
    def topics(self) -> list[BagTopic]:
        """The recorded topics, sorted by name."""
        return sorted(self._topics.values(), key=lambda topic: (topic.name, topic.type_name))

    @property
    def duration_s(self) -> float:
        """Time from the first to the last message."""
        return (self.end_ns - self.start_ns) * 1e-9

    def messages(
        self,
        topics: Collection[str] | None = None,
        start_ns: int | None = None,
        stop_ns: int | None = None,
    ) -> Iterator[tuple[BagTopic, int, bytes]]:
        """Yield (topic, time of recording in ns, CDR bytes) in order of time; None = all topics.

        Those recorded in [start_ns, stop_ns) only, if given; what lies outside costs little.
        """
        try:
            for connection, stamp_ns, cdr in self._files.messages(topics, start_ns, stop_ns):
                yield self._topics[connection.topic, connection.msgtype], stamp_ns, cdr
        except GeneratorExit:
            raise
        except Exception as error:
            raise _read_error(self.path, error) from error

    def close_idle_files(self) -> None:
        """Close what is open only for the next reading; it can be read on."""
        self._files.close_idle()

    def close(self) -> None:
        """Close the files, and remove what they were expanded to."""
        self._files.close()

    def __enter__(self) -> "BagReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _merged_topics(connections: Iterator[Connection]) -> dict[tuple[str, str], BagTopic]:
    topics: dict[tuple[str, str], BagTopic] = {}
    for connection in connections:
        key = connection.topic, connection.msgtype
        known = topics.get(key, BagTopic(*key, 0))
        assert isinstance(connection.ext, ConnectionExtRosbag2)
        topics[key] = BagTopic(
            *key,
            known.message_count + connection.msgcount,
            (*known.qos, *connection.ext.offered_qos_profiles),
        )
    return topics


def _read_error(path: Path, error: Exception) -> BagError | OSError:
    """What is to be raised instead of an error met while a bag was read."""
    trouble = machine_trouble(error)
    if trouble is None:
        return BagError(f"cannot read the bag {path}: {error or type(error).__name__}")
    reason = str(trouble.strerror)
    if trouble.errno in (errno.EMFILE, errno.ENFILE):
        reason += " (`ulimit -n` shows and sets how many there may be)"
    if trouble.filename:
        reason += f": {trouble.filename}"
    return OSError(
        trouble.errno, f"cannot read the bag {path}: {reason}. Mend that, and start again"
    )


def shift_stamp(cdr: bytes, start_ns: int, new_start_ns: int, rate: float = 1.0) -> bytes:
    """Move the header stamp of a serialised message whose first field is a std_msgs/Header.

    A stamp t becomes new_start_ns + (t - start_ns) / rate. A zero stamp means "not set" and stays.

    Args:
        cdr: the message: 4 bytes of encapsulation, then seconds (int32) and nanoseconds (uint32).
        start_ns: time in the recording that is mapped to new_start_ns.
        new_start_ns: where it goes.
        rate: seconds of recording per second of playing.

    Raises:
        InvalidInputError: not plain CDR, or too short for a header.
    """
    if len(cdr) < 12 or cdr[0] != 0 or cdr[1] > 1:
        raise InvalidInputError("the message is not plain CDR with a header in front")
    stamp = struct.Struct("<iI" if cdr[1] else ">iI")
    seconds, nanoseconds = stamp.unpack_from(cdr, 4)
    if seconds == 0 and nanoseconds == 0:
        return cdr
    recorded_ns = seconds * 1_000_000_000 + nanoseconds
    moved = divmod(new_start_ns + round((recorded_ns - start_ns) / rate), 1_000_000_000)
    if not -(2**31) <= moved[0] < 2**31:
        raise InvalidInputError(f"the recorded stamp {recorded_ns} ns cannot be moved")
    return cdr[:4] + stamp.pack(*moved) + cdr[12:]


class BagWriter:
    """A new rosbag2 folder: MCAP, compressed by chunks, with the definitions of all its types.

    Raises:
        BagError: from the constructor: the folder exists or cannot be made.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.message_count = 0
        self.size_bytes = 0  # of the messages, before compression
        self._connections: dict[tuple[str, str], Connection] = {}
        try:
            self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            self._writer.open()
        except Exception as error:
            raise BagError(f"cannot write the bag {path}: {error}") from error

    def add_topic(self, name: str, type_name: str, qos: Collection[Qos] = ()) -> None:
        """Announce a topic; `qos` is what its publishers offer.

        Raises:
            InvalidInputError: the type's definition is not to be found.
        """
        self._connections[name, type_name] = self._writer.add_connection(
            name,
            type_name,
            typestore=typestore_for(type_name),
            offered_qos_profiles=list(qos),
        )

    def write(self, name: str, type_name: str, stamp_ns: int, cdr: bytes) -> None:
        """Append a message of an announced topic.

        Raises:
            BagError: the file cannot be written, for example because the disk is full.
        """
        with self._blamed():
            self._writer.write(self._connections[name, type_name], stamp_ns, cdr)
        self.message_count += 1
        self.size_bytes += len(cdr)

    def close(self) -> None:
        """Write what is left, the index and metadata.yaml: other tools ask for these.

        Raises:
            BagError: they cannot be written, for example because the disk is full.
        """
        with self._blamed():
            self._writer.close()

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BagError(f"cannot write the bag {self.path}: {error}") from error

    def __enter__(self) -> "BagWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()


def typestore_for(*type_names: str) -> Typestore:
    """Definitions of the given message types and of all that they contain.

    They come from the .msg files of the installed ROS packages, our own included, and for packages
    that are not installed from the newest ROS distribution that `rosbags` knows.

    Raises:
        InvalidInputError: a type is unknown, or its name is no message type's.
    """
    builtin = get_typestore(Stores.LATEST).fielddefs
    found = {}
    missing = list(type_names)
    while missing:
        type_name = missing.pop()
        if type_name in found:
            continue
        if not TYPE_NAME.fullmatch(type_name):
            raise InvalidInputError(f"{type_name!r} is not a message type like package/msg/Name")
        if file := _definition_file(type_name):
            found.update(get_types_from_msg(file.read_text(), type_name))
        elif type_name in builtin:
            found[type_name] = builtin[type_name]
        else:
            raise InvalidInputError(
                f"the definition of {type_name} is not installed; install its package"
            )
        missing += _nested_types(found[type_name][1])
    typestore = get_typestore(Stores.EMPTY)
    typestore.register(found)
    return typestore


def _definition_file(type_name: str) -> Path | None:
    package, _, name = type_name.split("/")
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    folders = [Path(prefix) / "share" / package / "msg" for prefix in prefixes if prefix]
    if package == "fpt_ros" and (own := shared_folder("msg")):
        folders.insert(0, own)
    files = [folder / f"{name}.msg" for folder in folders]
    return next((file for file in files if file.is_file()), None)


def _nested_types(fields: object) -> list[str]:
    """Names of message types inside the nested tuples and lists that describe fields."""
    if isinstance(fields, str):
        return [fields] if TYPE_NAME.fullmatch(fields) else []
    if isinstance(fields, tuple | list):
        return [name for part in fields for name in _nested_types(part)]
    return []
