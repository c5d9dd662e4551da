"""Recordings that are compressed to burst, cut off, never closed or partly gone."""

import os
import resource
import shutil
import sqlite3
import struct
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import lz4.frame
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import DECOMPRESSORS, zstd

from fpt_ros.bag_files import MAX_EXPANDED_BYTES
from fpt_ros.bag_mcap import McapMessages
from fpt_ros.bags import BagError, BagReader, typestore_for
from fpt_ros.data.bag_info import survey
from fpt_ros.data.footage import is_bag

STRING = "std_msgs/msg/String"
STORE = typestore_for(STRING)
MAGIC = b"\x89MCAP0\r\n"


def write(path, texts, plugin=StoragePlugin.MCAP, mode=CompressionMode.NONE, first=0):
    writer = Writer(path, version=9, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/a", STRING, typestore=STORE)
        for number, text in enumerate(texts, first):
            message = STORE.types[STRING](text)
            writer.write(connection, number, bytes(STORE.serialize_cdr(message, STRING)))
    return next(file for file in path.iterdir() if file.name != "metadata.yaml")


def record(op, content):
    return bytes([op]) + struct.pack("<Q", len(content)) + content


def text(value):
    return struct.pack("<I", len(value)) + value


def mcap_with_chunk(compression, data, claimed):
    header = record(0x01, text(b"ros2") + text(b"made by hand"))
    chunk = struct.pack("<QQQI", 0, 1, claimed, 0) + text(compression)
    chunk = record(0x06, chunk + struct.pack("<Q", len(data)) + data)
    return MAGIC + header + chunk + record(0x02, bytes(20)) + MAGIC


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("claimed", [100, MAX_EXPANDED_BYTES + 1])
def test_a_chunk_may_not_expand_to_more_than_it_says_nor_than_is_accepted(
    tmp_path, monkeypatch, compression, claimed
):
    """50 MB of zeros in a few kB. What is decompressed is counted: it must stay small."""
    zeros = bytes(50_000_000)
    bomb = zstd.compress(zeros) if compression == "zstd" else lz4.frame.compress(zeros)
    del zeros
    path = tmp_path / "bomb.mcap"
    path.write_bytes(mcap_with_chunk(compression.encode(), bomb, claimed))
    sizes = []
    kinds = {"zstd": zstd.ZstdDecompressor, "lz4": lz4.frame.LZ4FrameDecompressor}

    class Counting:
        def __init__(self):
            self._inner = kinds[compression]()

        def decompress(self, data, max_length):
            piece = self._inner.decompress(data, max_length=max_length)
            sizes.append(len(piece))
            return piece

        def __getattr__(self, name):
            return getattr(self._inner, name)

    place = {"zstd": (zstd, "ZstdDecompressor"), "lz4": (lz4.frame, "LZ4FrameDecompressor")}
    monkeypatch.setattr(*place[compression], Counting)
    with BagReader(path) as reader:  # what comes before the chunk: nothing
        assert reader.message_count == 0
        assert "cut off or damaged" in reader.damages[0]
    assert sum(sizes) <= 4 * 101


@pytest.mark.parametrize("name", ["zstd", "lz4"])
def test_of_many_small_frames_only_the_first_is_decompressed(monkeypatch, name):
    """They expand to nothing, so that no limit on what comes out ends it."""
    module = zstd if name == "zstd" else lz4.frame
    kind = zstd.ZstdDecompressor if name == "zstd" else lz4.frame.LZ4FrameDecompressor
    made = []
    monkeypatch.setattr(module, kind.__name__, lambda: made.append(1) or kind())
    read = DECOMPRESSORS[name]
    assert read(module.compress(b"whole"), 5) == b"whole"
    with pytest.raises(ValueError, match="goes on after its end"):
        read(1000 * module.compress(b""), 100)
    assert len(made) == 2


def test_a_compressed_message_or_file_may_not_burst(tmp_path, monkeypatch):
    monkeypatch.setattr("fpt_ros.bag_files.MAX_EXPANDED_BYTES", 10_000)
    texts = ["x" * 100, "y" * 200_000]
    write(tmp_path / "m", texts, StoragePlugin.SQLITE3, CompressionMode.MESSAGE)
    with BagReader(tmp_path / "m") as reader:
        (message,) = reader.messages()
        assert b"x" * 100 in message[2]
        (damage,) = reader.damages
        assert "1 compressed messages of m.db3" in damage
        assert "more than 10000 bytes" in damage
    write(tmp_path / "f", texts, StoragePlugin.SQLITE3, CompressionMode.FILE)
    with BagReader(tmp_path / "f") as reader:
        assert sum(1 for _ in reader.messages()) == 1
        assert "too big" in reader.damages[0]
    monkeypatch.setattr("fpt_ros.bag_files._MAX_FILE_RATIO", 2)
    monkeypatch.setattr("fpt_ros.bag_files._SMALL_FILE_BYTES", 0)
    with pytest.raises(BagError, match="expands to more than"):
        BagReader(tmp_path / "f")


def test_a_damaged_compressed_message_costs_only_itself(tmp_path):
    texts = [f"{i:04d}" * 50 for i in range(20)]
    file = write(tmp_path / "bag", texts, StoragePlugin.SQLITE3, CompressionMode.MESSAGE)
    with sqlite3.connect(file) as bag:
        cut = "UPDATE messages SET data = substr(data, 1, length(data) - 5) WHERE timestamp = 3"
        bag.execute(cut)
        bag.execute("UPDATE messages SET data = ? WHERE timestamp = 9", (b"\x28\xb5\x2f\xfd??",))
    bag.close()
    with BagReader(tmp_path / "bag") as reader:
        for _ in range(2):
            stamps = [stamp for _, stamp, _ in reader.messages()]
            assert stamps == [i for i in range(20) if i not in (3, 9)]
            (damage,) = reader.damages
            assert damage.startswith("2 compressed messages of bag.db3 are damaged")
        found = survey(reader)
    assert found.read == 18
    assert damage in found.warnings


@pytest.mark.parametrize("mode", [CompressionMode.NONE, CompressionMode.STORAGE])
def test_of_a_file_without_an_end_whole_chunks_are_read(tmp_path, mode):
    """As left by a recorder that was killed: no metadata, no summary, half a chunk at the end."""
    rng = np.random.default_rng(0)
    texts = [rng.bytes(30_000).hex() for _ in range(60)]
    file = write(tmp_path / "bag", texts, mode=mode)
    (tmp_path / "bag" / "metadata.yaml").unlink()
    whole = file.read_bytes()
    for share in (0.3, 0.6, 0.95):
        size = int(share * whole.rindex(MAGIC) * (0.9 if share > 0.9 else 1))
        file.write_bytes(whole[:size])
        with BagReader(tmp_path / "bag") as reader:
            stamps = [stamp for _, stamp, _ in reader.messages()]
            assert stamps == list(range(len(stamps)))
            assert reader.message_count == len(stamps)
            assert any("MB can be read" in damage for damage in reader.damages)
            found = survey(reader)
            assert found.read == len(stamps)
            assert any("MB can be read" in warning for warning in found.warnings)
            late = [stamp for _, stamp, _ in reader.messages(None, 3, 7)]
            assert late == [stamp for stamp in range(3, 7) if stamp in stamps]
    # Space that was reserved and never used.
    file.write_bytes(whole[: len(whole) // 100] + bytes(100_000))
    with BagReader(file) as reader:
        assert reader.message_count == 0


def write_interleaved(path, mode):
    """Two topics; every message of the second was received before the one of the first above it."""
    rng = np.random.default_rng(0)
    writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        topics = [writer.add_connection(name, STRING, typestore=STORE) for name in ("/a", "/b")]
        for number in range(100):
            message = STORE.types[STRING](rng.bytes(20_000).hex())
            cdr = bytes(STORE.serialize_cdr(message, STRING))
            writer.write(topics[0], 10 * number + 5, cdr)
            writer.write(topics[1], 10 * number + 4, cdr)
    return path / f"{path.name}.mcap"


def without_chunks(content):
    """An MCAP file's records, those of its chunks among them, without a summary."""
    flat, place = MAGIC, len(MAGIC)
    while content[place] != 0x0F:
        (length,) = struct.unpack_from("<Q", content, place + 1)
        whole = content[place : place + 9 + length]
        place += len(whole)
        if whole[0] == 0x06:
            flat += whole[9 + 28 + 4 + 8 :]  # head of an uncompressed chunk
        elif whole[0] != 0x07:
            flat += whole
    return flat + record(0x02, bytes(20)) + MAGIC


@pytest.mark.parametrize("kind", ["chunks", "compressed chunks", "no chunks"])
@pytest.mark.parametrize("share", [0.8, 1.0])
def test_topics_out_of_order_are_read_in_order_without_an_index(tmp_path, kind, share):
    mode = CompressionMode.STORAGE if kind == "compressed chunks" else CompressionMode.NONE
    file = write_interleaved(tmp_path / "bag", mode)
    whole = file.read_bytes()
    content = without_chunks(whole) if kind == "no chunks" else whole[: whole.rindex(MAGIC)]
    file.write_bytes(content[: int(share * len(content))])
    with BagReader(file) as reader:
        everything = [(topic.name, stamp) for topic, stamp, _ in reader.messages()]
        written = [(name, 10 * i + t) for i in range(100) for name, t in (("/a", 5), ("/b", 4))]
        assert everything == sorted(written[: len(everything)], key=lambda item: item[1])
        assert reader.message_count == len(everything)
        assert abs(len(everything) - 200 * share) < 2 * 30
        assert bool(reader.damages) == (share < 1 or kind != "no chunks")
        claimed = {topic.name: topic.message_count for topic in reader.topics}
        assert claimed == Counter(name for name, _ in everything)
        some = [(topic.name, stamp) for topic, stamp, _ in reader.messages(None, 203, 415)]
        assert some == [item for item in everything if 203 <= item[1] < 415]
        streams = zip(reader.messages({"/a"}), reader.messages({"/b"}), strict=False)
        assert all(a[1] == b[1] + 1 for a, b in streams)  # at the same time
        found = survey(reader)
    assert found.read == len(everything)
    assert not any("are there" in warning for warning in found.warnings)


def test_a_damaged_chunk_ends_what_is_read_of_a_file_without_summary(tmp_path):
    texts = [f"{i:04d}" + "z" * 60_000 for i in range(60)]
    file = write(tmp_path / "bag", texts, mode=CompressionMode.STORAGE)
    whole = bytearray(file.read_bytes())
    chunks = [i for i in range(len(whole) - 9) if whole[i : i + 4] == b"zstd"]
    middle = chunks[len(chunks) // 3] + 60
    whole[middle : middle + 40] = bytes(40)
    file.write_bytes(whole[: int(0.8 * len(whole))])
    with BagReader(file) as reader:
        stamps = [stamp for _, stamp, _ in reader.messages()]
    assert stamps == list(range(len(stamps)))
    assert len(stamps) < 60


def chunks_of(content):
    """Where the records of the chunks are in an MCAP file, and how long they are."""
    place, found = len(MAGIC), []
    while content[place] not in (0x02, 0x0F):
        (length,) = struct.unpack_from("<Q", content, place + 1)
        if content[place] == 0x06:
            found.append((place, 9 + length))
        place += 9 + length
    return found


def index_of(content):
    """Where the records of the chunk index are in an MCAP file."""
    (place,) = struct.unpack_from("<Q", content, len(content) - len(MAGIC) - 20)
    found = []
    while content[place] != 0x02:
        if content[place] == 0x08:
            found.append(place)
        place += 9 + struct.unpack_from("<Q", content, place + 1)[0]
    return found


@pytest.mark.parametrize("is_closed", [True, False])
def test_chunks_that_claim_to_begin_early_do_not_fill_the_memory(tmp_path, monkeypatch, is_closed):
    file = write(tmp_path / "bag", [f"{i:04d}" + "z" * 300_000 for i in range(30)])
    content = bytearray(file.read_bytes())
    chunks = chunks_of(content)
    assert len(chunks) > 6
    for place in [*(place for place, _ in chunks), *index_of(content)]:
        content[place + 9 : place + 17] = bytes(8)
    file.write_bytes(content if is_closed else content[: content.rindex(MAGIC)])
    largest = max(length for _, length in chunks)
    monkeypatch.setattr("fpt_ros.bag_files.MAX_EXPANDED_BYTES", largest)
    read = []
    piece_of = McapMessages._read
    monkeypatch.setattr(
        McapMessages, "_read", lambda self, piece: read.append(piece) or piece_of(self, piece)
    )
    with BagReader(file) as reader:
        assert bool(reader.damages) != is_closed
        ahead = [len(read) - i * len(chunks) / 30 for i, _ in enumerate(reader.messages())]
        assert len(ahead) == 30
        assert max(ahead) <= 4
        assert [stamp for _, stamp, _ in reader.messages()] == list(range(30))


def test_of_a_closed_file_a_damaged_chunk_costs_only_itself(tmp_path):
    texts = [f"{i:04d}" + "z" * 300_000 for i in range(30)]
    file = write(tmp_path / "bag", texts, mode=CompressionMode.STORAGE)
    content = bytearray(file.read_bytes())
    chunks = chunks_of(content)
    bad = [place for place, _ in chunks[2:4]]
    content[content.index(b"\x28\xb5\x2f\xfd", bad[0])] ^= 1  # what compressed data begins with
    content[bad[1]] = 0x80
    file.write_bytes(content)
    with BagReader(file) as whole, BagReader(file) as part:
        assert whole.damages == part.damages == []
        stamps = [stamp for _, stamp, _ in whole.messages()]
        lost = set(range(30)) - set(stamps)
        assert stamps == sorted(stamps)
        assert 0 < len(lost) <= 10
        assert lost == set(range(min(lost), max(lost) + 1))
        for _ in range(2):
            (damage,) = whole.damages
            assert damage.startswith(f"2 chunks of bag.mcap are damaged and left out, the first at "
                                     f"byte {bad[0]}: ")  # fmt: skip
            assert [stamp for _, stamp, _ in whole.messages(None, 25, 28)] == [25, 26, 27]
        list(part.messages(None, max(lost), None))
        assert (
            f"1 chunks of bag.mcap are damaged and left out, the first at byte {bad[1]}"
            in (part.damages[0])
        )
        found = survey(part)
    assert found.read == 30 - len(lost)
    assert damage in found.warnings


def test_chunks_without_what_is_asked_for_are_not_read(tmp_path, monkeypatch):
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = [writer.add_connection(name, STRING, typestore=STORE) for name in ("/a", "/b")]
        for number in range(30):
            message = STORE.types[STRING]("z" * 300_000)
            cdr = bytes(STORE.serialize_cdr(message, STRING))
            writer.write(topics[number == 20], number, cdr)
    read = []
    piece_of = McapMessages._read
    monkeypatch.setattr(
        McapMessages, "_read", lambda self, piece: read.append(piece) or piece_of(self, piece)
    )
    with BagReader(tmp_path / "bag") as reader:
        assert [stamp for _, stamp, _ in reader.messages({"/b"})] == [20]
    assert len(read) == 1


def test_an_index_may_not_name_more_than_the_file_holds(tmp_path):
    """One chunk, named a hundred times: the records themselves are read instead."""
    file = write(tmp_path / "bag", ["z" * 5_000])
    content = file.read_bytes()
    (place,) = index_of(content)
    length = 9 + struct.unpack_from("<Q", content, place + 1)[0]
    file.write_bytes(content[:place] + 100 * content[place : place + length] + content[place:])
    with BagReader(file) as reader:
        assert [stamp for _, stamp, _ in reader.messages()] == [0]
        assert "larger than the file" in reader.damages[0]


@pytest.mark.parametrize("kind", ["chunk", "message"])
def test_a_record_larger_than_accepted_is_not_read(tmp_path, monkeypatch, kind):
    """It is in the file as a whole, but larger than anything that is accepted."""
    limit = 2_000_000
    monkeypatch.setattr("fpt_ros.bag_files.MAX_EXPANDED_BYTES", limit)
    file = write(tmp_path / "bag", [f"{i:04d}" + "z" * 300_000 for i in range(30)])
    whole = file.read_bytes()
    place, _ = chunks_of(whole)[3]
    bloated = record(0x06 if kind == "chunk" else 0x05, bytes(limit + 1))
    file.write_bytes(whole[:place] + bloated + whole[place : int(0.8 * len(whole))])
    with BagReader(file) as reader:
        stamps = [stamp for _, stamp, _ in reader.messages()]
        assert "MB can be read" in reader.damages[0]
    assert stamps == list(range(len(stamps)))
    assert 0 < len(stamps) <= 15


def test_a_part_of_a_split_recording_may_be_missing_or_broken(tmp_path):
    folder = tmp_path / "split"
    folder.mkdir()
    for part in range(3):
        file = write(tmp_path / f"p{part}", ["a", "b"], first=10 * part)
        file.rename(folder / f"p{part}.mcap")
    names = ", ".join(f"p{part}.mcap" for part in range(4))
    (folder / "metadata.yaml").write_text(
        f"rosbag2_bagfile_information: {{relative_file_paths: [{names}]}}"
    )
    (folder / "p1.mcap").write_bytes(b"nothing of the kind")
    with BagReader(folder) as reader:
        assert [stamp for _, stamp, _ in reader.messages()] == [0, 1, 20, 21]
        said = " ".join(reader.damages)
        assert "p3.mcap" in said
        assert "p1.mcap" in said
    for broken in ("[", "- " * 500):  # the second one nested too deep
        (folder / "metadata.yaml").write_text(broken)
        with BagReader(folder) as reader:
            assert reader.message_count == 4


def split(folder, parts, **how):
    folder.mkdir()
    for part in range(parts):
        file = write(folder.parent / f"part{part}", ["a", "b"], first=10 * part, **how)
        file.rename(folder / f"{part:03d}{''.join(file.suffixes)}")


@pytest.mark.parametrize("plugin", StoragePlugin)
def test_of_a_long_split_recording_few_files_are_open(tmp_path, plugin):
    """More parts than files may be open."""
    split(tmp_path / "day", 40, plugin=plugin)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(fd.name) for fd in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12, limits[1]))
    try:
        with BagReader(tmp_path / "day") as reader:
            for first, stop in ((0, 400), (95, 205), (390, 391)):
                truth = [i for i in range(first, stop) if i % 10 < 2]
                assert [time for _, time, _ in reader.messages(None, first, stop)] == truth
            assert [damage for damage in reader.damages if "metadata.yaml" not in damage] == []
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, limits[1]))
        with pytest.raises(OSError, match="ulimit -n"):
            BagReader(tmp_path / "day")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_few_parts_are_expanded_at_a_time_and_none_stays(tmp_path):
    split(tmp_path / "day", 9, plugin=StoragePlugin.SQLITE3, mode=CompressionMode.FILE)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with BagReader(tmp_path / "day", scratch) as reader:
        expanded = [len(list(scratch.iterdir())) for _ in reader.messages()]
        assert len(expanded) == 18
        assert max(expanded) <= 5
        unfinished = reader.messages()
        next(unfinished)
        assert len(list(scratch.iterdir())) <= 5
    unfinished.close()
    assert not list(scratch.iterdir())


def test_expanded_parts_make_room_for_the_next(tmp_path, monkeypatch):
    """The disk holds two of them, fewer than are kept otherwise."""
    split(tmp_path / "day", 6, plugin=StoragePlugin.SQLITE3, mode=CompressionMode.FILE)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    part_bytes = len(zstd.open(next((tmp_path / "day").iterdir())).read())

    def usage(_):
        used = sum(file.stat().st_size for file in scratch.rglob("*.db3"))
        return SimpleNamespace(free=(256 << 20) + int(2.5 * part_bytes) - used)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with BagReader(tmp_path / "day", scratch) as reader:
        assert len(list(reader.messages())) == 12
        assert 1 <= len(list(scratch.iterdir())) <= 2


@pytest.mark.parametrize(
    ("plugin", "mode"),
    [
        (StoragePlugin.SQLITE3, CompressionMode.NONE),
        (StoragePlugin.SQLITE3, CompressionMode.FILE),
        (StoragePlugin.MCAP, CompressionMode.NONE),
    ],
)
def test_any_path_will_do(tmp_path, plugin, mode):
    folder = tmp_path / "50% #3"
    folder.mkdir()
    write(tmp_path / "bag", ["a", "b"], plugin, mode)
    shutil.move(tmp_path / "bag", folder / "what?")
    with BagReader(folder / "what?") as reader:
        assert sum(1 for _ in reader.messages()) == 2
        assert not reader.damages


def test_why_a_file_is_taken_for_a_damaged_one_is_told(tmp_path):
    file = write(tmp_path / "bag", ["a"] * 3)
    file.write_bytes(file.read_bytes()[: -len(MAGIC)])
    with BagReader(file) as reader:
        assert "damaged (File end magic is invalid" in reader.damages[0]
    file = write(tmp_path / "base", ["a"] * 300, StoragePlugin.SQLITE3)
    file.write_bytes(file.read_bytes()[: 8192 * 2])
    with BagReader(file) as reader:
        assert "database disk image is malformed" in reader.damages[0]


def test_claims_of_a_database_are_compared_with_what_is_there(tmp_path):
    write(tmp_path / "bag", ["a"] * 5)
    with BagReader(tmp_path / "bag") as reader:
        topic = reader.topics[0]
        reader._topics["/a", STRING] = type(topic)(topic.name, topic.type_name, 9)
        found = survey(reader)
    assert found.warnings == ["/a: 9 messages are claimed and 5 are there"]
    assert not found.topics[0].usable


def test_records_of_applications_are_skipped_and_others_are_garbage(tmp_path):
    file = write(tmp_path / "bag", [f"{i:04d}" + "z" * 60_000 for i in range(60)])
    whole = file.read_bytes()
    first_chunk = len(MAGIC) + 9 + struct.unpack_from("<Q", whole, len(MAGIC) + 1)[0]
    for op, is_skipped in ((0x80, True), (0xFF, True), (0x10, False), (0x7F, False)):
        own = record(op, b"of an application")
        file.write_bytes(whole[:first_chunk] + own + whole[first_chunk : int(0.6 * len(whole))])
        with BagReader(file) as reader:
            stamps = [stamp for _, stamp, _ in reader.messages()]
        assert stamps == list(range(len(stamps)))
        assert bool(stamps) == is_skipped


def test_a_folder_of_compressed_files_alone_is_a_recording(tmp_path):
    folder = tmp_path / "bag"
    write(folder, ["a", "b"], StoragePlugin.SQLITE3, CompressionMode.FILE)
    (folder / "metadata.yaml").unlink()
    assert [file.suffix for file in folder.iterdir()] == [".zstd"]
    assert is_bag(folder)
    with BagReader(folder) as reader:
        assert sum(1 for _ in reader.messages()) == 2
