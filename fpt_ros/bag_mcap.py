"""Reading the messages of MCAP recordings: closed ones, cut off ones, damaged ones.

`rosbags` finds out what a file claims to hold. Reading it is done here: `rosbags` holds all chunks
at once that claim to begin at the same time, and ends at one that is damaged. Of a file without an
index, it goes through all of it for every question, and gives up where messages are not in order of
time, as those of several topics seldom are; here its records are found once.
"""

from __future__ import annotations

import heapq
import io
import os
import struct
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, storage_mcap

from fpt_ros.core.errors import machine_trouble

_MAGIC = b"\x89MCAP0\r\n"
# A footer that says there is no summary: the reader then looks at the records themselves.
_END = b"\x02" + struct.pack("<QQQI", 20, 0, 0, 0) + _MAGIC
_FOOTER, _MESSAGE, _CHUNK = 0x02, 0x05, 0x06
_DATA = range(0x01, 0x0F)  # from header to summary offset; beyond, the data is over
_PRIVATE = range(0x80, 0x100)  # of applications: readers skip them; the rest is garbage
_HEAD = struct.Struct("<BQ")  # of a record: kind and length
_MESSAGE_HEAD = struct.Struct("<HIQQ")  # connection, number, times of recording and publishing
_CHUNK_HEAD = struct.Struct("<QQQI")  # first and last time, size of the content, its CRC
_PIECE_BYTES = 1 << 20  # of messages outside of chunks that are read at once

_LAST_NS = (1 << 63) - 1


class _Piece(NamedTuple):
    """A part of the file with messages: a chunk, or successive messages outside of chunks."""

    first_ns: int
    last_ns: int
    start: int
    end: int
    is_chunk: bool
    numbers: frozenset[int] = frozenset()  # of the connections in it; none: not known


class McapMessages:
    """The messages of an MCAP file. It stands in for a `rosbags.rosbag2.Reader`."""

    def __init__(
        self,
        file: Path,
        reader: Reader,
        pieces: Iterable[_Piece],
        max_bytes: int,
        damaged: dict[int, str],
    ) -> None:
        """Open it.

        Args:
            file: the recording.
            reader: says what the file holds.
            pieces: where that is.
            max_bytes: a chunk or message that claims more is none.
            damaged: chunks that cannot be read are put here as they are met: their position in the
                file, and why.
        """
        self.connections = list(reader.connections)
        self.message_count = reader.message_count
        self.start_time, self.end_time = reader.start_time, reader.end_time
        self._pieces = sorted(pieces)
        self._max_bytes = max_bytes
        self._damaged = damaged
        self._content = file.open("rb")

    def messages(
        self, wanted: Collection[Connection], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Messages of some connections recorded in [start_ns, stop_ns), in order of time.

        When chunks begin is only claimed. Where that makes more than `max_bytes` wait for what may
        be earlier, they wait no longer.
        """
        start_ns = 0 if start_ns is None else start_ns
        stop_ns = _LAST_NS if stop_ns is None else stop_ns
        by_id = {connection.id: connection for connection in wanted}
        waiting: list[tuple[int, int, int, int, bytes]] = []  # of equal times, as in the file
        waiting_bytes = 0
        for piece in self._pieces:
            if piece.first_ns >= stop_ns:
                break
            if piece.last_ns < start_ns or (piece.numbers and piece.numbers.isdisjoint(by_id)):
                continue
            while waiting and (waiting[0][0] < piece.first_ns or waiting_bytes > self._max_bytes):
                time_ns, _, _, number, data = heapq.heappop(waiting)
                waiting_bytes -= len(data)
                yield by_id[number], time_ns, data
            for place, (number, time_ns, data) in enumerate(self._read(piece)):
                if number in by_id and start_ns <= time_ns < stop_ns:
                    heapq.heappush(waiting, (time_ns, piece.start, place, number, data))
                    waiting_bytes += len(data)
        while waiting:
            time_ns, _, _, number, data = heapq.heappop(waiting)
            yield by_id[number], time_ns, data

    def close(self) -> None:
        """Close the file."""
        self._content.close()

    def __enter__(self) -> McapMessages:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, piece: _Piece) -> Iterator[tuple[int, int, bytes]]:
        """Connection, time and content of a piece's messages; none if it is damaged."""
        try:
            data = self._content_of(piece)
        except Exception as error:  # decompressors raise many types
            if machine_trouble(error):
                raise
            self._damaged[piece.start] = str(error) or type(error).__name__
            return
        place = 0
        while place + _HEAD.size <= len(data):
            kind, length = _HEAD.unpack_from(data, place)
            start, place = place + _HEAD.size, place + _HEAD.size + length
            if kind == _MESSAGE and length >= _MESSAGE_HEAD.size and place <= len(data):
                number, _, time_ns, _ = _MESSAGE_HEAD.unpack_from(data, start)
                yield number, time_ns, data[start + _MESSAGE_HEAD.size : place]

    def _content_of(self, piece: _Piece) -> bytes:
        size = piece.end - piece.start
        if size > _HEAD.size + self._max_bytes:
            raise ValueError(f"the chunk has {size} bytes; up to {self._max_bytes} are accepted")
        self._content.seek(piece.start)
        data = self._content.read(size)
        if not piece.is_chunk:
            return data
        if data[: _HEAD.size] != _HEAD.pack(_CHUNK, size - _HEAD.size):
            raise ValueError("there is no chunk of the length that the index tells")
        return _chunk_content(data[_HEAD.size :])


def indexed_messages(
    file: Path, max_bytes: int, damaged: dict[int, str]
) -> tuple[McapMessages | None, int]:
    """The messages of a file that was closed, None if it has no index of chunks; and how many.

    See McapMessages. Raises whatever the parser meets in a damaged file.
    """
    with Reader(file) as reader:
        assert isinstance(reader.storage, storage_mcap.McapReader)
        chunks = reader.storage.chunks
        # Sound chunks share nothing: else a small file could hold any amount.
        if sum(chunk.chunk_length for chunk in chunks) > file.stat().st_size:
            raise ValueError("the chunks of its index are together larger than the file")
        pieces = [
            _Piece(
                chunk.message_start_time,
                chunk.message_end_time,
                chunk.chunk_start_offset,
                chunk.chunk_start_offset + chunk.chunk_length,
                True,
                frozenset(chunk.channel_count),
            )
            for chunk in chunks
        ]
        count = reader.message_count
        return McapMessages(file, reader, pieces, max_bytes, damaged) if pieces else None, count


def remaining_messages(
    file: Path, max_bytes: int, damaged: dict[int, str]
) -> tuple[McapMessages, int]:
    """The messages as far as a file's records are whole, and how many bytes of it that is.

    See McapMessages. Raises whatever the parser meets when that is no recording.
    """
    pieces, end = _survey(file, max_bytes, check_chunks=False)
    try:
        return _cut_off(file, pieces, end, max_bytes, damaged), end
    except Exception:  # a damaged chunk: look for it
        pieces, end = _survey(file, max_bytes, check_chunks=True)
        return _cut_off(file, pieces, end, max_bytes, damaged), end


def _cut_off(
    file: Path, pieces: Iterable[_Piece], end: int, max_bytes: int, damaged: dict[int, str]
) -> McapMessages:
    with Reader(_CutMcap(file, end)) as reader:  # type: ignore[arg-type]
        return McapMessages(file, reader, pieces, max_bytes, damaged)


def _survey(file: Path, max_bytes: int, check_chunks: bool) -> tuple[list[_Piece], int]:
    """Where messages are, and where the last whole record of the data ends."""
    pieces: list[_Piece] = []
    with file.open("rb") as content:
        size = content.seek(0, io.SEEK_END)
        end = len(_MAGIC)
        while True:
            content.seek(end)
            head = content.read(_HEAD.size)
            if len(head) < _HEAD.size or not (head[0] in _DATA or head[0] in _PRIVATE):
                return pieces, end
            kind, length = _HEAD.unpack(head)
            start, end = end, end + _HEAD.size + length
            is_too_large = kind in (_CHUNK, _MESSAGE) and length > max_bytes
            if end > size or kind == _FOOTER or is_too_large:
                return pieces, start
            if kind == _CHUNK and length >= _CHUNK_HEAD.size:
                if check_chunks and not _is_sound(content.read(length)):
                    return pieces, start
                content.seek(start + _HEAD.size)
                first_ns, last_ns, _, _ = _CHUNK_HEAD.unpack(content.read(_CHUNK_HEAD.size))
                pieces.append(_Piece(first_ns, last_ns, start, end, True))
            elif kind == _MESSAGE and length >= _MESSAGE_HEAD.size:
                _, _, time_ns, _ = _MESSAGE_HEAD.unpack(content.read(_MESSAGE_HEAD.size))
                _add_message(pieces, time_ns, start, end)


def _add_message(pieces: list[_Piece], time_ns: int, start: int, end: int) -> None:
    """Add a message outside of chunks to the last piece, or begin another one."""
    last = pieces[-1] if pieces else None
    if last is None or last.is_chunk or end - last.start > _PIECE_BYTES:
        pieces.append(_Piece(time_ns, time_ns, start, end, False))
    else:
        first_ns, last_ns = min(last.first_ns, time_ns), max(last.last_ns, time_ns)
        pieces[-1] = _Piece(first_ns, last_ns, last.start, end, False)


def _is_sound(chunk: bytes) -> bool:
    try:
        _chunk_content(chunk)
    except Exception:  # decompressors raise many types
        return False
    return True


def _chunk_content(chunk: bytes) -> bytes:
    """Decompress a chunk. Raises whatever its decompressor does."""
    _, _, size, crc = _CHUNK_HEAD.unpack_from(chunk)
    (name_bytes,) = struct.unpack_from("<I", chunk, _CHUNK_HEAD.size)
    start = _CHUNK_HEAD.size + 4 + name_bytes
    name = chunk[_CHUNK_HEAD.size + 4 : start].decode()
    (packed_bytes,) = struct.unpack_from("<Q", chunk, start)
    if len(chunk) < start + 8 + packed_bytes:
        raise ValueError("the chunk is longer than its record")
    packed = chunk[start + 8 : start + 8 + packed_bytes]
    return storage_mcap.decompress(packed, name, size, crc)


class _CutMcap(os.PathLike[str]):
    """An MCAP file up to a position, with a proper end: what `rosbags` needs of a path."""

    suffix = ".mcap"

    def __init__(self, file: Path, end: int) -> None:
        self._file = file
        self._end = end

    def __fspath__(self) -> str:
        return str(self._file)

    def __str__(self) -> str:  # in the parser's messages
        return self._file.name

    def exists(self) -> bool:
        return True

    def is_dir(self) -> bool:
        return False

    def open(self, mode: str) -> BinaryIO:
        assert mode == "rb"
        return io.BufferedReader(_Joined(self._file.open("rb"), self._end, _END), 1 << 18)


class _Joined(io.RawIOBase):
    """The first bytes of a file, followed by other bytes."""

    def __init__(self, file: BinaryIO, end: int, tail: bytes) -> None:
        self._file = file
        self._end = end
        self._tail = tail
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._position, self._end + len(self._tail))[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position < self._end:
            self._file.seek(self._position)
            piece = self._file.read(min(len(buffer), self._end - self._position))
        else:
            start = self._position - self._end
            piece = self._tail[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        self._file.close()
        super().close()
