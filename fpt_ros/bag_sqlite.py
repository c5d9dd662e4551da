"""What can be read of an SQLite recording that is cut off, damaged, or still being written.

SQLite opens a database as a whole or not at all: it finds rows by way of pages that come late in
the file, and may be lost with its end. Python has no access to its `.recover`. So the pages that
hold rows are looked for one by one here, in the file and in the write-ahead log of a recorder that
is at work or was killed. No SQL is run, nothing is written and nothing locked: a recorder is not
disturbed.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
)
from rosbags.rosbag2.metadata import parse_qos

from fpt_ros.sqlite_pages import Pages, Row, columns_of, integer_at

_MAX_TOPIC_BYTES = 1 << 16
_MAX_TOPICS = 4096
_NO_DEFINITION = MessageDefinition(MessageDefinitionFormat.NONE, "")


class _Message(NamedTuple):
    time_ns: int
    topic_id: int
    row: Row
    start: int  # of the content in the row, bytes


class SqliteRemains:
    """The messages that are left in a damaged database, or are there already in an open one.

    It stands in for a `rosbags.rosbag2.Reader`. `there_bytes` is how large the database is,
    `claimed_bytes` how large it says that it is.

    Raises ValueError, from the constructor: it is no database, or names no topics.
    """

    def __init__(self, file: Path, max_message_bytes: int) -> None:
        self._pages = Pages(file)
        # Sound rows share nothing, so that together they are not larger than the files; these may
        # grow while they are read.
        self._unread_bytes = 2 * self._pages.size_bytes
        self._max_bytes = min(max_message_bytes, self._unread_bytes)
        self.there_bytes, self.claimed_bytes = self._pages.there_bytes, self._pages.claimed_bytes
        try:
            topics, pages = self._topics_and_pages()
            if not topics:
                raise ValueError(
                    "it is no recording, or its beginning, with the topics, is damaged: copy it "
                    "anew, if there is a whole one"
                )
            self._topic_ids = {topic_id for topic_id, _, _ in topics}
            counts = self._survey(pages)
            self.connections = [
                Connection(*key, _NO_DEFINITION, "", counts[key[0]], ext, self)
                for key, ext in topics.items()
            ]
        except BaseException:
            self.close()
            raise
        self.message_count = sum(connection.msgcount for connection in self.connections)

    def messages(
        self, wanted: Collection[Connection], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Messages of some connections recorded in [start_ns, stop_ns), in order of time.

        Those whose content is damaged are left out.
        """
        start_ns = self.start_time if start_ns is None else start_ns
        stop_ns = self.end_time if stop_ns is None else min(stop_ns, self.end_time)
        by_id = {connection.id: connection for connection in wanted}
        for message in self._between(start_ns, stop_ns):
            if message.topic_id in by_id and (data := self._content(message)) is not None:
                yield by_id[message.topic_id], message.time_ns, data

    def close(self) -> None:
        """Close the files."""
        self._pages.close()

    def __enter__(self) -> SqliteRemains:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _topics_and_pages(
        self,
    ) -> tuple[dict[tuple[int, str, str], ConnectionExtRosbag2], array[int]]:
        """Topics, and the numbers of the pages with messages, rising."""
        topics: dict[tuple[int, str, str], ConnectionExtRosbag2] = {}
        pages = array("q")
        for number in self._pages.with_rows():
            rows = self._pages.rows(number)
            if messages := list(filter(None, map(self._message, rows))):
                if self._may_read(*(message.row for message in messages)):
                    pages.append(number)
            elif len(topics) < _MAX_TOPICS:
                topics |= dict(filter(None, map(self._topic, rows)))
        return topics, pages

    def _survey(self, pages: array[int]) -> Counter[int]:
        """Count messages up to the last one that is whole; keep the pages in order of time."""
        counts: Counter[int] = Counter()
        found = array("q")  # number of a page, first and last time in it
        for number in reversed(pages):
            messages = self._messages(number)
            while messages and not found and self._content(messages[-1]) is None:
                messages.pop()  # its content lies beyond the end of the file
            if messages:
                times = [message.time_ns for message in messages]
                found.extend((number, min(times), max(times)))
                counts.update(message.topic_id for message in messages)
        table = np.array(found, np.int64).reshape(-1, 3)
        self._by_time = table[np.lexsort((table[:, 0], table[:, 1]))]
        self.start_time = int(table[:, 1].min(initial=(1 << 63) - 1))
        self.end_time = int(table[:, 2].max(initial=-1)) + 1
        return counts

    def _may_read(self, *rows: Row) -> bool:
        total = sum(row.length for row in rows)
        if total > self._unread_bytes:
            return False
        self._unread_bytes -= total
        return True

    def _between(self, start_ns: int, stop_ns: int) -> Iterator[_Message]:
        """Messages in order of time; of equal times, in that of the file."""
        waiting: list[tuple[int, int, int, _Message]] = []
        table = self._by_time
        near = table[(table[:, 1] < stop_ns) & (table[:, 2] >= start_ns)]
        for number, first_ns, _ in near.tolist():
            while waiting and waiting[0][0] < first_ns:
                yield heapq.heappop(waiting)[-1]
            for place, message in enumerate(self._messages(number)):
                if start_ns <= message.time_ns < stop_ns:
                    heapq.heappush(waiting, (message.time_ns, number, place, message))
        while waiting:
            yield heapq.heappop(waiting)[-1]

    def _messages(self, number: int) -> list[_Message]:
        """Those in a page whose topic is known."""
        found = filter(None, map(self._message, self._pages.rows(number)))
        return [message for message in found if message.topic_id in self._topic_ids]

    def _message(self, row: Row) -> _Message | None:
        """A row of `messages`: id, topic, time, content."""
        columns = columns_of(row)
        if columns is None or len(columns) != 4 or row.length > self._max_bytes:
            return None
        kinds = [kind for kind, _ in columns]
        if kinds[0] or kinds[3] < 12 or kinds[3] % 2:
            return None
        topic_id, time_ns = (integer_at(row.local, *column) for column in columns[1:3])
        if topic_id is None or time_ns is None or time_ns < 0:
            return None
        return _Message(time_ns, topic_id, row, columns[3][1])

    def _topic(self, row: Row) -> tuple[tuple[int, str, str], ConnectionExtRosbag2] | None:
        """A row of `topics`: id, name, type, format, and from some version on QoS and a hash."""
        columns = columns_of(row)
        if columns is None or len(columns) < 4 or row.length > _MAX_TOPIC_BYTES:
            return None
        if columns[0][0] or any(kind < 13 or kind % 2 == 0 for kind, _ in columns[1:]):
            return None
        if not self._may_read(row) or (whole := self._pages.whole(row)) is None:
            return None
        try:
            texts = [
                whole[start : start + (kind - 13) // 2].decode() for kind, start in columns[1:]
            ]
            if texts[2] != "cdr":  # else a row of another table
                return None
            qos = parse_qos(texts[3]) if len(texts) > 3 else []
        except Exception:  # damaged text: QoS is parsed as YAML, which raises many types
            return None
        return (row.id, texts[0], texts[1]), ConnectionExtRosbag2(texts[2], qos)

    def _content(self, message: _Message) -> bytes | None:
        whole = self._pages.whole(message.row)
        return None if whole is None else whole[message.start :]
