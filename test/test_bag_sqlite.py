"""SQLite recordings that are cut off, damaged, or being written by another process."""

import hashlib
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from fpt_ros.bags import BagError, BagReader, typestore_for
from fpt_ros.data.bag_info import survey

STRING = "std_msgs/msg/String"
STORE = typestore_for(STRING)
SCHEMA = """
CREATE TABLE schema(schema_version INTEGER PRIMARY KEY, ros_distro TEXT NOT NULL);
CREATE TABLE metadata(id INTEGER PRIMARY KEY, metadata_version INTEGER NOT NULL,
  metadata TEXT NOT NULL);
CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,
  serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL,
  type_description_hash TEXT NOT NULL);
CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type TEXT NOT NULL,
  encoding TEXT NOT NULL, encoded_message_definition TEXT NOT NULL,
  type_description_hash TEXT NOT NULL);
CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL,
  timestamp INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX timestamp_idx ON messages (timestamp ASC);
INSERT INTO schema VALUES (4, 'kilted');
INSERT INTO message_definitions VALUES (1, 'std_msgs/msg/String', 'ros2msg', 'string data', '');
INSERT INTO topics VALUES (1, '/a', 'std_msgs/msg/String', 'cdr', '', ''),
  (2, '/b', 'std_msgs/msg/String', 'cdr', '', '');
"""

WRITER = """
import sqlite3, sys
file, schema, journal = sys.argv[1:]
bag = sqlite3.connect(file, isolation_level=None)
bag.execute(f"PRAGMA journal_mode={journal}")
bag.execute("PRAGMA wal_autocheckpoint=50")
bag.executescript(schema)
first = 0
for line in sys.stdin:
    count = int(line)
    bag.execute("BEGIN")
    bag.executemany("INSERT INTO messages VALUES (NULL, 1, ?, ?)",
        [(i, b"%06d" % i * 700) for i in range(first, first + count)])
    first += count
    if journal == "wal":
        bag.execute("COMMIT")
    print("written", flush=True)
"""


def write(path, sizes, page_bytes=4096):
    """A database with messages of these many bytes; returns them, by time."""
    rng = np.random.default_rng(0)
    contents = [b"\0\1\0\0<%06d>" % i + rng.bytes(int(size)) for i, size in enumerate(sizes)]
    with sqlite3.connect(path) as bag:
        bag.execute(f"PRAGMA page_size={page_bytes}")
        bag.executescript(SCHEMA)
        rows = [(1 + i % 2, i, content) for i, content in enumerate(contents)]
        bag.executemany("INSERT INTO messages VALUES (NULL, ?, ?, ?)", rows)
    bag.close()
    return contents


def read(path, **about):
    """Contents by time, as far as they can be read."""
    with BagReader(path) as reader:
        found = {stamp: cdr for _, stamp, cdr in reader.messages(**about)}
        assert list(found) == sorted(found)
        return found, reader


def state(folder):
    return {
        file.name: (file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in folder.iterdir()
    }


@pytest.mark.parametrize("page_bytes", [512, 4096, 65536])
def test_every_message_that_is_whole_before_the_cut_is_read(tmp_path, page_bytes):
    """Even where the pages that lead to them were in the part that is gone."""
    file = tmp_path / "bag.db3"
    contents = write(file, [90] * 6000, page_bytes)
    whole = file.read_bytes()
    border = int(0.8 * len(whole)) // page_bytes * page_bytes
    for size in (border - page_bytes - 1, border, border + page_bytes // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        whole_pages = whole[: size // page_bytes * page_bytes]
        there = {i: c for i, c in enumerate(contents) if c in whole_pages}
        found, reader = read(file)
        assert found == there
        assert 500 < len(there) < 6000
        assert reader.message_count == len(found)
        assert f"{len(found)} messages" in reader.damages[0]
        part, _ = read(file, topics=["/b"], start_ns=100, stop_ns=200)
        assert list(part) == list(range(101, 200, 2))


def test_of_large_messages_those_with_their_end_are_read(tmp_path):
    file = tmp_path / "bag.db3"
    contents = write(file, np.random.default_rng(1).integers(10, 60_000, 150))
    whole = file.read_bytes()
    for share in (0.1, 0.5, 0.9):
        file.write_bytes(whole[: int(share * len(whole))])
        found, reader = read(file)
        assert found == dict(enumerate(contents[: len(found)]))
        # The next one is there only in part, or what points to it is not.
        assert contents[len(found) + 1][-50:] not in file.read_bytes()
        assert "MB can be read" in reader.damages[0]
        with BagReader(file) as reader:
            assert survey(reader).read == len(found)


@pytest.mark.parametrize("same_time", [False, True])
def test_a_damage_in_the_middle_costs_only_the_message_it_hits(tmp_path, same_time):
    """A page with the continuation of one message is zeroed; nothing else tells of it."""
    file = tmp_path / "bag.db3"
    contents = write(file, [20_000] * 50)
    if same_time:
        with sqlite3.connect(file) as bag:
            bag.execute("UPDATE messages SET timestamp = 7 WHERE timestamp BETWEEN 5 AND 15")
        bag.close()
    whole = bytearray(file.read_bytes())
    page = whole.index(contents[10][9000:9100]) // 4096 * 4096
    whole[page : page + 4096] = bytes(4096)
    file.write_bytes(whole)
    with BagReader(file) as reader:
        for _ in range(2):
            assert [cdr for _, _, cdr in reader.messages()] == contents[:10] + contents[11:]
            assert len(reader.damages) == 1
            assert "bag.db3 is damaged" in reader.damages[0]
        found = reader.messages(["/b"], 9 - 2 * same_time, 30)
        assert [cdr for *_, cdr in found] == contents[(5 if same_time else 9) : 30 : 2]
        found = survey(reader)
        assert found.read == 49
        assert "bag.db3 is damaged" in found.warnings[0]


def test_messages_come_in_order_of_time_however_late_they_were_written(tmp_path):
    """As SQLite gives them, also of equal times."""
    file = tmp_path / "bag.db3"
    times = np.random.default_rng(0).integers(0, 2000, 3000)
    times[1000:] += np.arange(2000)  # from now on about in order
    with sqlite3.connect(file) as bag:
        bag.executescript(SCHEMA)
        rows = [(int(t), b"%06d" % i * 20) for i, t in enumerate(times)]
        bag.executemany("INSERT INTO messages VALUES (NULL, 1, ?, ?)", rows)
        truth = list(bag.execute("SELECT timestamp, data FROM messages ORDER BY timestamp, id"))
    bag.close()
    file.write_bytes(file.read_bytes() + b"?")
    with BagReader(file) as reader:
        assert [message[1:] for message in reader.messages()] == truth
        part = [message[1:] for message in reader.messages(None, 500, 2500)]
        assert part == [row for row in truth if 500 <= row[0] < 2500]


def test_rows_of_no_topic_or_time_are_no_messages(tmp_path):
    file = tmp_path / "bag.db3"
    write(file, [100] * 200)
    with sqlite3.connect(file) as bag:
        bag.execute("UPDATE messages SET topic_id = 77, timestamp = 1 << 60 WHERE id = 150")
        bag.execute("UPDATE messages SET timestamp = -(1 << 60) WHERE id = 50")
    bag.close()
    file.write_bytes(file.read_bytes() + b"?")
    found, reader = read(file)
    assert list(found) == [i for i in range(200) if i not in (49, 149)]
    assert reader.message_count == sum(t.message_count for t in reader.topics) == 198
    assert (reader.start_ns, reader.end_ns) == (0, 200)


def repeat_row(file, content, times, page_bytes):
    """Let the page with the beginning of a row, its only one, name it many times; unfinished."""
    whole = bytearray(file.read_bytes())
    page = whole.index(content) // page_bytes * page_bytes
    row = whole[page + 8 : page + 10]
    whole[page + 3 : page + 5] = struct.pack(">H", times)
    whole[page + 8 : page + 8 + 2 * times] = row * times
    file.write_bytes(whole[:-1])


@pytest.mark.parametrize("size", [20_000, 489 + 4092 * 30])
def test_rows_that_share_their_bytes_are_not_multiplied(tmp_path, size):
    """One row is named by many cells: in a page of its own, and with a long continuation."""
    file = tmp_path / "bag.db3"
    times, page_bytes = (12_000, 65536) if size < 50_000 else (8, 4096)
    contents = write(file, [size], page_bytes)
    repeat_row(file, contents[0][:100], times, page_bytes)
    tracemalloc.start()
    found, reader = read(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not found
    assert reader.message_count == 0
    assert peak < 5_000_000


def test_a_row_that_continues_in_itself_is_left_out(tmp_path):
    file = tmp_path / "bag.db3"
    contents = write(file, [20_000] * 5)
    whole = bytearray(file.read_bytes())
    page = whole.index(contents[2][9000:9100]) // 4096
    whole[4096 * page : 4096 * page + 4] = struct.pack(">I", page + 1)  # pages count from 1
    file.write_bytes(whole[:-1])
    found, _ = read(file)
    assert list(found) == [0, 1, 3]  # and not the last, whose end is cut off


def test_of_topics_there_may_not_be_too_many_nor_too_long_ones(tmp_path):
    file = tmp_path / "bag.db3"
    write(file, [100] * 5)
    with sqlite3.connect(file) as bag:
        bag.execute("INSERT INTO topics VALUES (3, '/c', 'std_msgs/msg/String', 'cdr', ?, '')",
                    ("x" * 70_000,))  # fmt: skip
        bag.executemany("INSERT INTO topics VALUES (?, ?, 'std_msgs/msg/String', 'cdr', '', '')",
                        [(i, f"/t{i}") for i in range(4, 9000)])  # fmt: skip
    bag.close()
    file.write_bytes(file.read_bytes()[:-1])
    found, reader = read(file)
    assert len(found) == 5
    assert 4096 <= len(reader.topics) < 4300
    assert "/c" not in {topic.name for topic in reader.topics}


@pytest.mark.parametrize("size", [0, 10, 100, 3000, 4096, 9000])
def test_a_recording_without_its_beginning_is_refused_by_name(tmp_path, size):
    write(tmp_path / "bag.db3", [100] * 100)
    file = tmp_path / "cut.db3"
    file.write_bytes((tmp_path / "bag.db3").read_bytes()[:size])
    with pytest.raises(BagError, match=r"cut\.db3 cannot be read: .* beginning"):
        BagReader(file)


def test_random_damage_gives_messages_or_a_reason(tmp_path):
    """Whatever is read is a message that was written, but for bytes inside of it."""
    contents = write(tmp_path / "bag.db3", np.random.default_rng(1).integers(10, 9000, 60))
    whole = (tmp_path / "bag.db3").read_bytes()
    rng = np.random.default_rng(2)
    file = tmp_path / "bad.db3"
    read_ones = 0
    for trial in range(60):
        bad = bytearray(whole)
        for place in rng.integers(0, len(bad), 1 + trial % 5):
            length = int(rng.integers(1, 6000))
            bad[place : place + length] = rng.bytes(len(bad[place : place + length]))
        file.write_bytes(bad[: int(rng.uniform(0.3, 1.0) * len(bad))])
        try:
            found, _ = read(file)
        except BagError:
            continue
        same = sum(found.get(i) == content for i, content in enumerate(contents))
        assert same >= 0.6 * len(found)
        read_ones += same
    assert read_ones > 500


def test_what_is_no_database_is_refused(tmp_path):
    file = tmp_path / "bag.db3"
    header = b"SQLite format 3\0\x10\0" + bytes(10_000)
    for garbage in (bytes(50_000), np.random.default_rng(0).bytes(50_000), header):
        file.write_bytes(garbage)
        with pytest.raises(BagError, match=r"bag\.db3 cannot be read"):
            BagReader(file)
    with sqlite3.connect(tmp_path / "other.db3") as other:
        other.execute("CREATE TABLE cooking(id INTEGER PRIMARY KEY, recipe TEXT)")
    with pytest.raises(BagError):
        BagReader(tmp_path / "other.db3")


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_recording_that_is_being_written_is_read_and_left_alone(tmp_path, journal):
    """What its transactions have finished is there, and whatever else has reached the disk."""
    folder = tmp_path / "bag"
    folder.mkdir()
    file = folder / "bag_0.db3"
    command = [sys.executable, "-c", WRITER, str(file), SCHEMA, journal]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        written = 0
        for count in (1, 300, 700):
            writer.stdin.write(f"{count}\n")
            writer.stdin.flush()
            assert writer.stdout.readline() == "written\n"
            written += count
            before = state(folder)
            found, reader = read(folder)
            assert state(folder) == before
            assert found == {i: b"%06d" % i * 700 for i in range(len(found))}
            if journal == "wal":
                assert len(found) == written
                assert reader.duration_s == pytest.approx(1e-9 * written)
            said = " ".join(reader.damages)
            assert "ros2 bag reindex bag" in said
            assert f"{len(found)} messages can be read" in said
            if journal == "delete":  # it cannot begin another transaction within this one
                break
        writer.kill()
    found, _ = read(folder)
    if journal == "wal":
        assert len(found) == written
        copy = shutil.copytree(folder, tmp_path / "copy") / file.name  # SQLite mends what it opens
        with sqlite3.connect(copy) as bag:
            assert dict(bag.execute("SELECT timestamp, data FROM messages")) == found


def log_with_words(log, order, page_bytes=4096):
    """The same log with its checksums in another byte order."""

    def total(data, sums):
        for word in np.frombuffer(data, f"{order}u4").tolist():
            sums = sums[1], (sums[0] + word + sums[1]) % 2**32
        return sums

    log = bytearray(log)
    log[3] = 0x83 if order == ">" else 0x82
    sums = total(log[:24], (0, 0))
    log[24:32] = struct.pack(">2I", *sums)
    for at in range(32, len(log), 24 + page_bytes):
        sums = total(log[at : at + 8] + log[at + 24 : at + 24 + page_bytes], sums)
        log[at + 16 : at + 24] = struct.pack(">2I", *sums)
    return bytes(log)


@pytest.mark.parametrize("order", "<>")
def test_of_a_log_as_much_is_read_as_sqlite_reads(tmp_path, order):
    """A transaction counts if all of it has reached the disk, not only the headers of its pages."""
    with sqlite3.connect(tmp_path / "bag.db3", isolation_level=None) as bag:
        bag.execute("PRAGMA journal_mode=wal")
        bag.executescript(SCHEMA)
        bag.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for first in range(0, 60, 6):
            bag.execute("BEGIN")
            rows = [(i, b"%06d" % i * 300) for i in range(first, first + 6)]
            bag.executemany("INSERT INTO messages VALUES (NULL, 1, ?, ?)", rows)
            bag.execute("COMMIT")
        main, log = (tmp_path / "bag.db3").read_bytes(), (tmp_path / "bag.db3-wal").read_bytes()
    bag.close()
    own_order = "<" if log[3] == 0x82 else ">"
    assert log_with_words(log, own_order) == log
    log = log_with_words(log, order)
    rng = np.random.default_rng(0)
    counts = set()
    for trial in range(30):
        bad = bytearray(log)
        frame = 32 + int(rng.integers(0, len(log) // 4120)) * 4120
        start, length = [(0, 0), (24, 4096), (0, 4120), (0, 4), (9, 1), (4000, 1)][trial % 6]
        bad[frame + start : frame + start + length] = bytes(length)
        if trial % 6 == 5:
            bad = bad[: frame + 4110]
        for folder in (tmp_path / f"{trial}", tmp_path / f"{trial}s"):
            folder.mkdir()
            (folder / "bag.db3").write_bytes(main)
            (folder / "bag.db3-wal").write_bytes(bad)
        found, _ = read(tmp_path / f"{trial}" / "bag.db3")
        with sqlite3.connect(tmp_path / f"{trial}s" / "bag.db3") as bag:
            assert dict(bag.execute("SELECT timestamp, data FROM messages")) == found
        bag.close()
        counts.add(len(found))
    assert 60 in counts
    assert len(counts) > 4


def test_of_a_database_that_is_cut_off_beside_its_log_it_is_told_how_much_is_there(tmp_path):
    write(tmp_path / "open.db3", [20_000] * 50)
    with sqlite3.connect(tmp_path / "open.db3", isolation_level=None) as bag:
        bag.execute("PRAGMA journal_mode=wal")
        bag.execute("INSERT INTO messages VALUES (NULL, 1, 50, ?)", (b"new" * 10_000,))
        main, log = (tmp_path / f"open.db3{end}" for end in ("", "-wal"))
        cut = main.read_bytes()[: 4096 * 100]
        (tmp_path / "bag.db3").write_bytes(cut)
        (tmp_path / "bag.db3-wal").write_bytes(log.read_bytes())
        (pages,) = bag.execute("PRAGMA page_count").fetchone()
    bag.close()
    found, reader = read(tmp_path / "bag.db3")
    assert 15 < len(found) < 25
    there, claimed = map(float, re.search(r"of (\S+) of (\S+) MB", reader.damages[0]).groups())
    assert claimed == pytest.approx(4096 * pages / 1e6, abs=0.06)
    assert there == pytest.approx((len(cut) + 4096 * 9) / 1e6, abs=0.06)


def test_without_metadata_compressed_messages_are_known_by_their_beginning(tmp_path):
    writer = Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.SQLITE3)
    writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/a", STRING, typestore=STORE)
        message = bytes(STORE.serialize_cdr(STORE.types[STRING]("x" * 900), STRING))
        writer.write(connection, 5, message)
    with_metadata, reader = read(tmp_path / "bag")
    assert not reader.damages
    (tmp_path / "bag" / "metadata.yaml").unlink()
    without, reader = read(tmp_path / "bag")
    assert without == with_metadata == {5: message}
    assert "no metadata.yaml" in reader.damages[0]


def test_how_much_is_read_is_told_in_messages_where_the_metadata_counts_them(tmp_path):
    writer = Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.SQLITE3)
    with writer:
        connection = writer.add_connection("/a", STRING, typestore=STORE)
        for i in range(100):
            text = np.random.default_rng(i).bytes(1000).hex()
            message = STORE.types[STRING](text)
            writer.write(connection, i, bytes(STORE.serialize_cdr(message, STRING)))
    (file,) = (tmp_path / "bag").glob("*.db3")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    found, reader = read(tmp_path / "bag")
    assert 20 < len(found) < 60
    assert f"{len(found)} of the 100 messages that were recorded can be read" in reader.damages


def test_the_beginning_of_a_compressed_file_that_is_cut_off_is_read(tmp_path):
    writer = Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.SQLITE3)
    writer.set_compression(CompressionMode.FILE, CompressionFormat.ZSTD)
    rng = np.random.default_rng(0)
    with writer:
        connection = writer.add_connection("/a", STRING, typestore=STORE)
        for i in range(100):
            message = STORE.types[STRING](rng.bytes(5000).hex())
            writer.write(connection, i, bytes(STORE.serialize_cdr(message, STRING)))
    (file,) = (tmp_path / "bag").glob("*.zstd")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    found, reader = read(tmp_path / "bag")
    assert 30 < len(found) < 60
    assert any("cut off" in damage and file.name in damage for damage in reader.damages)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE messages RENAME TO old; CREATE TABLE messages(id INTEGER PRIMARY KEY, "
        "topic_id INTEGER, timestamp INTEGER, data BLOB GENERATED ALWAYS AS (zeroblob(30000000)));"
        "INSERT INTO messages SELECT id, topic_id, timestamp FROM old; DROP TABLE old",
        "ALTER TABLE topics ADD COLUMN more TEXT GENERATED ALWAYS AS (upper(name)) VIRTUAL",
        "DROP TABLE message_definitions; CREATE VIEW message_definitions AS SELECT 1 AS id, "
        "'std_msgs/msg/String' AS topic_type, 'ros2msg' AS encoding, "
        "'' AS encoded_message_definition, '' AS type_description_hash",
    ],
)
def test_nothing_that_a_database_defines_is_run(tmp_path, change):
    file = tmp_path / "bag.db3"
    contents = write(file, [100] * 5)
    with sqlite3.connect(file) as bag:
        bag.executescript(change)
    bag.close()
    found, reader = read(file)
    assert set(found.values()) <= set(contents)
    assert re.search(r"is computed|neither a table nor an index", reader.damages[0])


def test_a_message_larger_than_accepted_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("fpt_ros.bag_files.MAX_EXPANDED_BYTES", 10_000)
    contents = write(tmp_path / "bag.db3", [100, 100, 20_000, 100, 100])
    found, reader = read(tmp_path / "bag.db3")
    assert found == {i: content for i, content in enumerate(contents) if i != 2}
    assert "too big" in reader.damages[0]
