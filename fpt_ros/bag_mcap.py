"""What can be read of an MCAP recording without an index: cut off, not closed, or without chunks.

`rosbags` goes through such a file from its beginning for every question, and gives up where
messages are not in order of time, as those of several topics seldom are. Here its records are found
once, and then read from where they are.
"""

from __future__ import annotations

import heapq
import io
import os
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, storage_mcap

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


class McapRemains:
    """The messages of an MCAP file as far as its records are whole.

    It stands in for a `rosbags.rosbag2.Reader`. `there_bytes` is how much of the file is whole. A
    chunk or message that claims more than `max_bytes` is none.

    Raises, from the constructor, whatever the parser meets when that is no recording.
    """

    def __init__(self, file: Path, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        for check_chunks in (False, True):
            pieces, self.there_bytes = _survey(file, max_bytes, check_chunks)
            try:
                with Reader(_CutMcap(file, self.there_bytes)) as reader:  # type: ignore[arg-type]
                    self.connections = list(reader.connections)
                    self.message_count = reader.message_count
                    self.start_time, self.end_time = reader.start_time, reader.end_time
                break
            except Exception:  # a damaged chunk: look for it
                if check_chunks:
                    raise
        self._pieces = sorted(pieces)
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
            if piece.last_ns < start_ns:
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

    def __enter__(self) -> McapRemains:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, piece: _Piece) -> Iterator[tuple[int, int, bytes]]:
        """Connection, time and content of a piece's messages."""
        self._content.seek(piece.start)
        data = self._content.read(piece.end - piece.start)
        if piece.is_chunk:
            data = _chunk_content(data[_HEAD.size :])
        place = 0
        while place + _HEAD.size <= len(data):
            kind, length = _HEAD.unpack_from(data, place)
            start, place = place + _HEAD.size, place + _HEAD.size + length
            if kind == _MESSAGE and length >= _MESSAGE_HEAD.size and place <= len(data):
                number, _, time_ns, _ = _MESSAGE_HEAD.unpack_from(data, start)
                yield number, time_ns, data[start + _MESSAGE_HEAD.size : place]


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
