"""Reading, writing and restamping recordings, compared with rosbags and the ROS installation."""

import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rclpy.executors import SingleThreadedExecutor
from rich.console import Console
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String

from fpt_ros.bags import BagError, BagReader, BagWriter, shift_stamp, typestore_for
from fpt_ros.cli.play import Player, message_class, offered_qos
from fpt_ros.core.errors import InvalidInputError

STRING = "std_msgs/msg/String"
IMAGE = "sensor_msgs/msg/CompressedImage"
STORE = typestore_for(STRING, IMAGE)
BUNDLED = Path(__file__).parents[1] / "demo" / "bag"


def string_cdr(text: str) -> bytes:
    return bytes(STORE.serialize_cdr(STORE.types[STRING](text), STRING))


def write_strings(path: Path, plugin: StoragePlugin, mode: CompressionMode) -> None:
    writer = Writer(path, version=9, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        first = writer.add_connection("/a", STRING, typestore=STORE)
        second = writer.add_connection("/b", STRING, typestore=STORE)
        for number in range(4):
            writer.write((first, second)[number % 2], number * 10, string_cdr(str(number)))


@pytest.mark.parametrize("plugin", StoragePlugin)
@pytest.mark.parametrize(
    "mode", [CompressionMode.NONE, CompressionMode.FILE, CompressionMode.MESSAGE]
)
def test_reads_what_rosbags_writes(tmp_path, plugin, mode):
    if plugin is StoragePlugin.MCAP and mode is not CompressionMode.NONE:
        mode = CompressionMode.STORAGE
    write_strings(tmp_path / "bag", plugin, mode)
    with BagReader(tmp_path / "bag") as reader:
        assert [(t.name, t.type_name, t.message_count) for t in reader.topics] == [
            ("/a", STRING, 2),
            ("/b", STRING, 2),
        ]
        assert reader.message_count == 4
        everything = [(topic.name, stamp, cdr) for topic, stamp, cdr in reader.messages()]
        assert everything == [("/" + "ab"[i % 2], 10 * i, string_cdr(str(i))) for i in range(4)]
        assert [stamp for _, stamp, _ in reader.messages({"/b"})] == [10, 30]


def test_writer_stores_the_definitions_that_ros_installed(tmp_path):
    name = "fpt_ros/msg/MotionDistribution"
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic("/motion", name)
    with BagReader(tmp_path / "bag") as reader:
        assert [(topic.name, topic.type_name) for topic in reader.topics] == [("/motion", name)]
    mcap = (tmp_path / "bag" / "bag.mcap").read_bytes()
    assert b"float32[] covariances" in mcap
    assert b"MSG: sensor_msgs/RegionOfInterest" in mcap
    for name in ("sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/PointCloud2"):
        installed = Path(sys.prefix) / "share" / f"{name}.json"
        if not installed.is_file():
            pytest.skip("the ROS packages lie elsewhere than in this Python environment")
        described = json.loads(installed.read_text())
        hashes = {entry["type_name"]: entry["hash_string"] for entry in described["type_hashes"]}
        assert typestore_for(name).hash_rihs01(name) == hashes[name]


def test_split_recordings_are_read_in_order_of_time(tmp_path):
    folder = tmp_path / "split"
    folder.mkdir()
    for part, first in enumerate((20, 0)):
        with Writer(tmp_path / f"p{part}", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            connection = writer.add_connection("/a", STRING, typestore=STORE)
            for stamp in range(first, first + 3):
                writer.write(connection, stamp, string_cdr(str(stamp)))
        (tmp_path / f"p{part}" / f"p{part}.mcap").rename(folder / f"p{part}.mcap")
    with BagReader(folder) as reader:
        assert [stamp for _, stamp, _ in reader.messages()] == [0, 1, 2, 20, 21, 22]
        assert reader.topics[0].message_count == 6


def test_metadata_with_another_qos_loses_nothing(tmp_path):
    with BagReader(BUNDLED) as reader:
        expected = reader.message_count
    copy = tmp_path / "bag"
    copy.mkdir()
    (copy / "bag.mcap").symlink_to(BUNDLED / "bag.mcap")
    metadata = (BUNDLED / "metadata.yaml").read_text().replace("depth: 5", "depth: 6")
    (copy / "metadata.yaml").write_text(metadata)
    with BagReader(copy) as reader:
        assert sum(1 for _ in reader.messages()) == expected


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "neither metadata.yaml nor"),
        (lambda path: path.write_text("not a bag"), "Unrecognized storage format"),
        (
            lambda path: (
                path.mkdir(),
                (path / "metadata.yaml").write_text(
                    "rosbag2_bagfile_information: {relative_file_paths: [gone.mcap]}"
                ),
            ),
            "gone.mcap",
        ),
        (lambda path: (path.mkdir(), (path / "metadata.yaml").write_text("[")), "cannot read"),
    ],
)
def test_a_bag_that_is_none_is_refused_with_a_reason(tmp_path, make, reason):
    make(tmp_path / "bag")
    with pytest.raises(BagError, match=reason):
        BagReader(tmp_path / "bag")


@pytest.fixture(scope="module", params=[StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def small_bag_file(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / "bag"
    write_strings(folder, request.param, CompressionMode.NONE)
    return next(file for file in folder.iterdir() if file.suffix != ".yaml")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1), damage=st.binary(min_size=1, max_size=12), cut=st.booleans())
def test_a_damaged_file_is_read_or_refused_but_never_crashes(
    small_bag_file, tmp_path, position, damage, cut
):
    content = bytearray(small_bag_file.read_bytes())
    start = int(position * (len(content) - 1))
    if cut:
        del content[start:]
    else:
        content[start : start + len(damage)] = damage
    path = tmp_path / f"damaged{small_bag_file.suffix}"
    path.write_bytes(content)
    with contextlib.suppress(BagError), BagReader(path) as reader:
        for _, _, cdr in reader.messages():
            assert isinstance(cdr, bytes)


def test_writing_into_an_existing_folder_is_refused(tmp_path):
    with pytest.raises(BagError, match="exists"):
        BagWriter(tmp_path)


def test_a_full_disk_is_told_when_the_last_chunk_is_written(tmp_path):
    writer = BagWriter(tmp_path / "bag")
    writer.add_topic("/said", STRING)
    writer.write("/said", STRING, 1, string_cdr("x"))
    file = writer._writer.storage
    file.bio.close()
    file.bio = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(BagError, match="No space left"):
        writer.close()
    file.bio.close()


@given(
    stamp_ns=st.integers(1, 2**31 * 10**9 - 1),
    start_ns=st.integers(0, 2**60),
    now_ns=st.integers(2**59, 2**60),
    rate=st.sampled_from([0.5, 1.0, 4.0]),
)
def test_shift_stamp_moves_the_header_and_nothing_else(stamp_ns, start_ns, now_ns, rate):
    types = STORE.types

    def serialised(total_ns: int, little_endian: bool) -> bytes:
        stamp = types["builtin_interfaces/msg/Time"](*divmod(total_ns, 10**9))
        header = types["std_msgs/msg/Header"](stamp, "camera")
        message = types[IMAGE](header, "jpeg", np.arange(9, dtype=np.uint8))
        return bytes(STORE.serialize_cdr(message, IMAGE, little_endian=little_endian))

    expected_ns = now_ns + round((stamp_ns - start_ns) / rate)
    for little_endian in (True, False):
        cdr = serialised(stamp_ns, little_endian)
        if -(2**31) <= expected_ns // 10**9 < 2**31:
            moved = shift_stamp(cdr, start_ns, now_ns, rate)
            assert moved == serialised(expected_ns, little_endian)
        else:
            with pytest.raises(InvalidInputError):
                shift_stamp(cdr, start_ns, now_ns, rate)


def test_shift_stamp_keeps_a_stamp_that_was_never_set_and_refuses_foreign_bytes():
    assert shift_stamp(b"\0\1\0\0" + bytes(20), 5, 10**18) == b"\0\1\0\0" + bytes(20)
    for cdr in (b"", b"\0\1\0\0\1\0\0\0", b"\0\7\0\0" + bytes(20)):
        with pytest.raises(InvalidInputError):
            shift_stamp(cdr, 0, 0)


@pytest.mark.parametrize(
    "name", ["os/path", "os/msg/system", "../../msg/Evil", "std_msgs/msg/Nothing", "no_pkg/msg/X"]
)
def test_types_that_a_bag_may_not_name(name):
    with pytest.raises(InvalidInputError, match=r"message type|not installed"):
        message_class(name)
    with pytest.raises(InvalidInputError):
        typestore_for(name)


def test_offered_qos_follows_the_recording():
    with BagReader(BUNDLED) as reader:
        profile = offered_qos(reader.topics[0])
    assert (profile.depth, profile.reliability.name, profile.durability.name) == (
        5,
        "RELIABLE",
        "VOLATILE",
    )


def test_the_clock_runs_with_the_recording(tmp_path):
    start_ns, length_ns = 1_700_000_000_000_000_000, 400_000_000
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic("/said", STRING)
        for stamp_ns in (start_ns, start_ns + length_ns):
            writer.write("/said", STRING, stamp_ns, string_cdr("x"))
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node = rclpy.create_node("test_clock", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        ticks, said = [], []
        node.create_subscription(Clock, "/clock", ticks.append, 1000)
        node.create_subscription(String, "/said", said.append, 10)
        with BagReader(tmp_path / "bag") as reader:
            player = Player(node, reader, rate=2.0)
            began_s = time.monotonic()
            player.run(Console(file=io.StringIO()), clock=True, subscribers=1)
            assert time.monotonic() - began_s >= length_ns * 1e-9 / 2.0
        deadline_s = time.monotonic() + 10
        while (len(said) < 2 or len(ticks) < 10) and time.monotonic() < deadline_s:
            executor.spin_once(timeout_sec=0.1)
    finally:
        rclpy.shutdown(context=context)
    times_ns = [tick.clock.sec * 10**9 + tick.clock.nanosec for tick in ticks]
    assert player.published == 2
    assert len(said) == 2
    assert times_ns == sorted(times_ns)
    assert len(times_ns) >= 10
    assert start_ns <= times_ns[0] <= times_ns[-1]


@pytest.mark.parametrize(
    "arguments",
    [{"rate": 0.0}, {"rate": float("nan")}, {"remap": ("/a",)}, {"topics": ("/none",)}],
)
def test_play_refuses_impossible_arguments(arguments):
    with BagReader(BUNDLED) as reader, pytest.raises(InvalidInputError):
        Player(None, reader, **arguments)


def fpt(*arguments: str) -> subprocess.Popen[str]:
    program = "from fpt_ros.cli import main; raise SystemExit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True
    )


def test_play_and_record_between_two_processes(tmp_path):
    output = tmp_path / "recorded"
    topic = "/camera/camera_info"  # itself renamed
    recorder = fpt("record", topic, "/never_published", "-o", str(output))
    began_ns = time.time_ns()
    player = fpt(
        *("play", str(BUNDLED), "--topics", "/camera/image_raw/compressed"),
        *("--remap", f"/camera/image_raw/compressed:={topic}", f"{topic}:=/not_twice"),
        *("--rate", "8", "--stamp", "now", "--subscribers", "1"),
    )
    _, report = player.communicate(timeout=60)
    assert player.returncode == 0, report
    assert "published 206 of 206" in report
    recorder.send_signal(signal.SIGINT)
    _, report = recorder.communicate(timeout=30)
    assert recorder.returncode == 0, report
    with BagReader(BUNDLED) as sent, BagReader(output) as received:
        assert [topic.name for topic in received.topics] == [topic]
        images = [cdr for _, _, cdr in received.messages()]
        originals = [cdr for _, _, cdr in sent.messages({"/camera/image_raw/compressed"})]
    assert len(images) == len(originals)
    for image, original in zip(images, originals, strict=True):  # the middleware pads to 4 bytes
        assert image[12 : len(original)] == original[12:]
        assert len(image) - len(original) < 4
    first_ns, last_ns = (
        int.from_bytes(cdr[4:8], "little") * 10**9 + int.from_bytes(cdr[8:12], "little")
        for cdr in (images[0], images[-1])
    )
    assert began_ns < first_ns < time.time_ns()
    assert last_ns - first_ns == pytest.approx(16.606e9 / 8, rel=1e-3)


def test_play_says_what_it_cannot_play(tmp_path):
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic("/good", STRING)
        writer.write("/good", STRING, 1, string_cdr("x"))
    (tmp_path / "bag" / "metadata.yaml").unlink()
    player = fpt("play", str(tmp_path / "bag"), "--topics", "/absent")
    _, report = player.communicate(timeout=60)
    assert player.returncode == 2
    assert "no metadata.yaml" in report
    assert "/absent" in report
    assert "/good" in report
    assert "Traceback" not in report
