"""Pages and rows of an SQLite database, read without SQLite: also of one that it would not open.

The format is described at https://sqlite.org/fileformat2.html. What a database claims is not
trusted: a page, or a chain of pages, that makes no sense holds nothing.
"""

from __future__ import annotations

import struct
from array import array
from pathlib import Path
from typing import BinaryIO, NamedTuple

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_PAGE_SIZES = {1 << power for power in range(9, 17)}
_ROWS = 0x0D  # kind of the pages that hold rows
_READ_BYTES = 1 << 20

_LOG_WORDS = {b"\x37\x7f\x06\x82": "<", b"\x37\x7f\x06\x83": ">"}  # by how the log begins
_LOG_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24

_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8}
_MAX_COLUMNS = 6  # of what is looked for


class Row(NamedTuple):
    """A row: its beginning, and where the rest of it is."""

    id: int
    length: int  # bytes of the whole
    local: bytes
    overflow: int  # number of the page with the rest; 0: there is none


class Pages:
    """The pages of a database as its last finished transaction left them: its file, or its log.

    A recorder may go on meanwhile. Where it begins its log anew, what the log held is in the file.

    Raises ValueError, from the constructor: it is no database, or its beginning is gone.
    """

    size_bytes: int  # of the file and its log
    there_bytes: int  # of the database
    claimed_bytes: int  # how large the database says that it is
    _page_bytes: int

    def __init__(self, file: Path) -> None:
        self._log: BinaryIO | None = None
        self._frames: dict[int, int] = {}  # where the log holds the newest version of a page
        self._file = file.open("rb")
        try:
            self._look_at_file()
            if (log := _beside(file, "-wal")).is_file():
                self._log = log.open("rb")
                self.size_bytes += _size(log)
                self._look_at_log(self._log)
            if self._page_bytes not in _PAGE_SIZES:
                raise ValueError(
                    "it is no SQLite database, or its beginning is gone: copy it anew, if there is "
                    "a whole one"
                )
        except BaseException:
            self.close()
            raise
        if self._frames:
            count = self.claimed_bytes // self._page_bytes
            in_file = min(count, self.there_bytes // self._page_bytes)
            in_log = sum(in_file < number <= count for number in self._frames)
            self.there_bytes = (in_file + in_log) * self._page_bytes
        # What of a page may be used for rows, and what a row may have of that: see the format.
        self._usable = self._page_bytes - (self._page(1)[20:21] or b"\0")[0]
        self._most_local = self._usable - 35
        self._least_local = (self._usable - 12) * 32 // 255 - 23

    def with_rows(self) -> list[int]:
        """Numbers of the pages that may hold rows, rising."""
        found = array("Q", self._frames)
        step = _READ_BYTES // self._page_bytes
        self._file.seek(0)
        first = 1
        while block := self._file.read(step * self._page_bytes):
            for place, kind in enumerate(block[:: self._page_bytes]):
                number = first + place
                if (kind == _ROWS or number == 1) and number not in self._frames:
                    found.append(number)
            first += step
        return sorted(found)

    def rows(self, number: int) -> list[Row]:
        """The rows of a page; none if it holds none or is damaged."""
        page = self._page(number)[: self._usable]
        start = _HEADER_BYTES if number == 1 else 0
        if len(page) < self._usable or page[start] != _ROWS:
            return []
        (count,) = struct.unpack_from(">H", page, start + 3)
        if start + 8 + 2 * count > len(page):
            return []
        rows, local_bytes = [], 0
        for place in struct.unpack_from(f">{count}H", page, start + 8):
            if (row := self._row(page, place)) is not None:
                rows.append(row)
                local_bytes += len(row.local)
                if local_bytes > self._usable:  # they overlap: a small page could hold any amount
                    return []
        return rows

    def whole(self, row: Row) -> bytes | None:
        """All of a row; None if its end is gone."""
        parts, length, number = [row.local], len(row.local), row.overflow
        seen = {0}
        while length < row.length and number not in seen:
            seen.add(number)
            page = self._page(number)
            part = page[4 : min(self._usable, 4 + row.length - length)]
            parts.append(part)
            length += len(part)
            if not part:
                break
            number = int.from_bytes(page[:4], "big")
        return b"".join(parts) if length == row.length else None

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._log:
            self._log.close()

    def _row(self, page: bytes, place: int) -> Row | None:
        length, place = _varint(page, place)
        row_id, place = _varint(page, place)
        local = length
        if length > self._most_local:
            local = self._least_local + (length - self._least_local) % (self._usable - 4)
            local = local if local <= self._most_local else self._least_local
        end = place + local + (4 if local < length else 0)
        if end > len(page):
            return None
        overflow = int.from_bytes(page[place + local : end], "big")
        return Row(row_id, length, page[place : place + local], overflow)

    def _page(self, number: int) -> bytes:
        """A page; less of it, or nothing, where the file has been cut off."""
        position = self._frames.get(number)
        if self._log and position is not None:
            self._log.seek(position)
            frame = self._log.read(_FRAME_HEADER_BYTES + self._page_bytes)
            if frame[8:16] == self._salts:
                return frame[_FRAME_HEADER_BYTES:]
        self._file.seek((number - 1) * self._page_bytes)
        return self._file.read(self._page_bytes)

    def _look_at_file(self) -> None:
        header = self._file.read(_HEADER_BYTES)
        self.size_bytes = self.there_bytes = self.claimed_bytes = self._file.seek(0, 2)
        self._page_bytes = _page_bytes(header)
        if self._page_bytes:
            changes, pages = struct.unpack_from(">II", header, 24)
            if changes == struct.unpack_from(">I", header, 92)[0]:  # else the count is an old one
                self.claimed_bytes = max(self.there_bytes, pages * self._page_bytes)

    def _look_at_log(self, log: BinaryIO) -> None:
        """Find the newest finished version of each page, up to the first damage."""
        header = log.read(_LOG_HEADER_BYTES)
        order = _LOG_WORDS.get(header[:4])
        page_bytes = int.from_bytes(header[8:12], "big")
        if order is None or page_bytes not in _PAGE_SIZES:
            return
        sums = _checksum(header[:24], order, (0, 0))
        if header[24:] != struct.pack(">2I", *sums):
            return
        self._salts = header[16:24]
        length = _FRAME_HEADER_BYTES + page_bytes
        pending: dict[int, int] = {}
        position = _LOG_HEADER_BYTES
        while len(frame := log.read(length)) == length:
            number, pages, salts, claimed = struct.unpack_from(">II8s8s", frame)
            if not number or salts != self._salts:  # or left from before the log began anew
                return
            sums = _checksum(frame[:8] + frame[_FRAME_HEADER_BYTES:], order, sums)
            if claimed != struct.pack(">2I", *sums):
                return
            pending[number] = position
            position += length
            if pages:  # the last of a transaction
                self._frames |= pending
                pending.clear()
                self._page_bytes = page_bytes
                self.claimed_bytes = pages * page_bytes


def looks_finished(file: Path) -> bool:
    """Whether nothing beside a database, nor its length, tells that it is open or cut off."""
    if _size(_beside(file, "-wal")) > _LOG_HEADER_BYTES or _size(_beside(file, "-journal")):
        return False
    with file.open("rb") as content:
        page_bytes = _page_bytes(content.read(_HEADER_BYTES))
    return not page_bytes or _size(file) % page_bytes == 0


def _page_bytes(header: bytes) -> int:
    """Length of a database's pages, 0 if it is none."""
    if header[: len(_MAGIC)] != _MAGIC or len(header) < _HEADER_BYTES:
        return 0
    (size,) = struct.unpack_from(">H", header, 16)
    return 1 << 16 if size == 1 else int(size)


def _checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """The log's running checksum, continued over these bytes."""
    first, second = sums
    for one, two in struct.iter_unpack(f"{order}2I", data):
        first = first + one + second & 0xFFFFFFFF
        second = second + two + first & 0xFFFFFFFF
    return first, second


def _beside(file: Path, ending: str) -> Path:
    return file.with_name(file.name + ending)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def columns_of(row: Row) -> list[tuple[int, int]] | None:
    """Kind and position in the row of each column; None if they make no sense or are too many."""
    header_end, place = _varint(row.local, 0)
    if not place <= header_end <= len(row.local):
        return None
    columns: list[tuple[int, int]] = []
    start = header_end
    while place < header_end:
        if len(columns) == _MAX_COLUMNS:
            return None
        kind, place = _varint(row.local, place)
        columns.append((kind, start))
        start += (kind - 12) // 2 if kind >= 12 else _INTEGER_BYTES.get(kind, 0)
    return columns if start == row.length else None


def integer_at(local: bytes, kind: int, start: int) -> int | None:
    """A column's value; None if it is no integer."""
    if kind in (8, 9):
        return kind - 8
    if not 1 <= kind <= 6 or start + _INTEGER_BYTES[kind] > len(local):
        return None
    return int.from_bytes(local[start : start + _INTEGER_BYTES[kind]], "big", signed=True)


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends; beyond the end of the data come zeros."""
    value = 0
    for count in range(1, 10):
        byte = data[place] if place < len(data) else 0
        place += 1
        if count == 9:
            return value << 8 | byte, place
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return value, place
