import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from fpt_ros.bags import BagError, BagReader
from fpt_ros.convert import map_to_msg
from fpt_ros.data import hard_cases

MB = 1_000_000


def images(stamp_ns, count=3, side=200):
    """Noise, which does not compress."""
    rng = np.random.default_rng(stamp_ns)
    for i in range(count):
        message = map_to_msg(rng.integers(0, 256, (side, side, 3), np.uint8), Header())
        yield "/camera", "sensor_msgs/msg/Image", stamp_ns + i, bytes(serialize_message(message))


def keep(folder, stamp_ns, limit_bytes=MB, **arguments):
    return hard_cases.keep(folder, limit_bytes, stamp_ns, list(images(stamp_ns, **arguments)))


def test_recordings_read_back(tmp_path):
    folder, sent = tmp_path / "new" / "folder", list(images(5))
    path = hard_cases.keep(folder, MB, 5, sent)
    assert hard_cases.kept(folder) == [path]
    with BagReader(path) as bag:
        read = [(t.name, t.type_name, time_ns, cdr) for t, time_ns, cdr in bag.messages()]
    assert read == sent
    assert deserialize_message(read[0][3], Image).height == 200


def test_the_oldest_make_room_and_nothing_else_goes(tmp_path):
    (tmp_path / "surprise_mine").mkdir()
    (tmp_path / "notes.txt").write_text("x" * MB)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "surprise_0000000000000000000").symlink_to(elsewhere)
    for stamp_ns in range(1, 6):  # 0.36 MB each
        path = keep(tmp_path, stamp_ns)
        assert hard_cases.kept(tmp_path)[-1] == path
        size = sum(f.stat().st_size for p in hard_cases.kept(tmp_path) for f in p.iterdir())
        assert size <= MB
    assert [int(path.name[-3:]) for path in hard_cases.kept(tmp_path)] == [4, 5]
    assert (tmp_path / "surprise_mine").exists()
    assert (tmp_path / "notes.txt").exists()
    assert elsewhere.exists()
    keep(tmp_path, 5)
    assert len(hard_cases.kept(tmp_path)) == 2
    with pytest.raises(BagError, match=r"0\.4 MB of images are more"):
        keep(tmp_path, 6, limit_bytes=300_000)
    assert len(hard_cases.kept(tmp_path)) == 2


def test_a_killed_writer_leaves_nothing_that_counts(tmp_path):
    leftover = tmp_path / ".unfinished" / "surprise_0000000000000000001"
    leftover.mkdir(parents=True)
    (leftover / "half.mcap").write_bytes(b"\x89MCAP")
    assert hard_cases.kept(tmp_path) == []
    keep(tmp_path, 7)
    assert not (tmp_path / ".unfinished").exists()


def test_a_full_disk_is_reported_and_costs_no_earlier_recording(tmp_path, monkeypatch):
    from fpt_ros.bags import BagWriter

    def full(self, *message):
        raise BagError("cannot write the bag: No space left on device")

    earlier = [keep(tmp_path, 1), keep(tmp_path, 2)]
    monkeypatch.setattr(BagWriter, "write", full)
    for stamp_ns in (2, 3):  # one would replace a recording, one needs the room of another
        with pytest.raises(BagError, match="No space left"):
            keep(tmp_path, stamp_ns)
    assert sorted(tmp_path.iterdir()) == earlier
    assert all(any(path.glob("*.mcap")) for path in earlier)


def test_a_file_in_place_of_the_folder_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BagError, match="cannot write"):
        keep(tmp_path / "file", 1)
