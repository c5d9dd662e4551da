"""Frames and their times from bags, videos and folders, whole and broken."""

from collections import Counter

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionMode, StoragePlugin
from sensor_msgs.msg import Image

from fpt_ros.bags import BagError, BagReader
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.data.bag_info import survey
from fpt_ros.data.footage import OWN_PICTURES, open_footage
from fpt_ros.nodes import desk, surprise


def read(path, topics=(), start_s=0.0, stop_s=1e6):
    skipped = Counter()
    with open_footage([path], topics) as found:
        frames = [list(each.frames(start_s, stop_s, skipped)) for each in found]
    return frames, skipped


@pytest.mark.parametrize("plugin", StoragePlugin)
@pytest.mark.parametrize("mode", ["NONE", "FILE", "MESSAGE"])
@pytest.mark.parametrize("kind", ["IMAGE", "JPEG"])
def test_images_of_a_bag(tmp_path, clips, plugin, mode, kind):
    if plugin is StoragePlugin.MCAP and mode != "NONE":
        mode = "STORAGE"
    pictures = clips.sliding_square(12)
    messages = clips.camera_messages(pictures, "/a", getattr(clips, kind))
    messages += clips.camera_messages(pictures[::-1], "/b", clips.JPEG)
    messages.sort(key=lambda message: message[2])
    clips.write_bag(tmp_path / "bag", messages, plugin, CompressionMode[mode])
    (a, b), skipped = read(tmp_path / "bag")
    assert not skipped
    np.testing.assert_allclose([f.time_s for f in a], np.arange(12) / clips.RATE_HZ, atol=1e-6)
    assert all(frame.follows for frame in a + b)
    for frame, number in ((a[5], 5), (b[5], 6)):
        differences = [np.abs(frame.rgb.astype(int) - picture).mean() for picture in pictures]
        assert np.argmin(differences) == number
        assert differences[number] < 8  # JPEG halves the resolution of colours
    (part,), _ = read(tmp_path / "bag", ["/b"], 0.35, 0.75)
    assert [round(frame.time_s, 3) for frame in part] == [0.4, 0.5, 0.6, 0.7]


def test_topics_that_are_not_there_or_hold_no_images(tmp_path, clips):
    text = bytes(clips.STORE.serialize_cdr(clips.STORE.types[clips.STRING]("x"), clips.STRING))
    messages = [*clips.camera_messages(clips.sliding_square(2)), ("/said", clips.STRING, 5, text)]
    clips.write_bag(tmp_path / "bag", messages)
    with pytest.raises(InvalidInputError, match=r"no topic /nothing.*/camera/image.*/said"):
        read(tmp_path / "bag", ["/nothing"])
    with pytest.raises(InvalidInputError, match="holds std_msgs/msg/String, not images"):
        read(tmp_path / "bag", ["/said"])
    clips.write_bag(tmp_path / "mute", messages[-1:])
    with pytest.raises(InvalidInputError, match=r"no images.*/said"):
        read(tmp_path / "mute")


def test_bad_images_and_stamps_are_counted(tmp_path, clips):
    pictures = clips.sliding_square(8)
    messages = clips.camera_messages(pictures)
    topic, kind, time_ns, cdr = messages[2]
    messages[2] = topic, kind, time_ns, cdr[: len(cdr) // 2]  # cut off
    messages[4] = (*messages[4][:3], clips.image_cdr(pictures[4], 0))  # no stamp
    late_ns = messages[6][2] + 60 * 10**9
    messages[6] = (*messages[6][:3], clips.image_cdr(pictures[6], late_ns))  # jumps and returns
    clips.write_bag(tmp_path / "bag", messages)
    (frames,), skipped = read(tmp_path / "bag")
    assert len(frames) == 7
    assert [frame.follows for frame in frames] == [True] * 5 + [False] * 2
    assert sum(n for reason, n in skipped.items() if "undecodable" in reason) == 1
    assert sum(n for reason, n in skipped.items() if "without a stamp" in reason) == 1
    assert sum(n for reason, n in skipped.items() if "jump" in reason) == 2


def test_a_damaged_chunk_is_counted_and_told(tmp_path, clips):
    messages = clips.camera_messages(clips.sliding_square(12))
    clips.write_bag(tmp_path / "bag", messages, mode=CompressionMode.STORAGE)
    file = tmp_path / "bag" / "bag.mcap"
    content = bytearray(file.read_bytes())
    content[content.index(b"zstd") + 12] ^= 1  # after its name and length: the compressed data
    file.write_bytes(content)
    skipped = Counter()
    with open_footage([tmp_path / "bag"]) as (footage,):
        assert footage.damages == []
        assert len(list(footage.frames(0, 9, skipped))) < 12
        assert skipped == {"damaged part of the recording": 1}
        (damage,) = footage.damages
    assert damage.startswith("bag: 1 chunks of bag.mcap are damaged and left out")


def test_a_folder_of_images_in_order_of_their_numbers(tmp_path, clips):
    pictures = clips.sliding_square(12, step_px=4)
    for i, picture in enumerate(pictures):
        cv2.imwrite(str(tmp_path / f"img{i}.png"), picture[..., ::-1])
    (tmp_path / "img3.png").write_bytes(b"not a picture")
    (tmp_path / "img11.png").rename(tmp_path / "img11\N{SUPERSCRIPT TWO}0.png")
    (frames,), skipped = read(tmp_path, start_s=0.2, stop_s=1.1)
    assert [round(frame.time_s, 3) for frame in frames] == [0.2, *np.arange(4, 11) / 10]
    np.testing.assert_array_equal(frames[-1].rgb, pictures[10])
    assert skipped == {"undecodable image (data is neither JPEG nor PNG (format is 'a file'))": 1}


def test_videos(tmp_path, clips):
    av = pytest.importorskip("av")
    pictures = clips.sliding_square(40, step_px=1)
    with av.open(str(tmp_path / "film.mp4"), "w") as film:
        stream = film.add_stream("mpeg4", rate=20)
        stream.width = stream.height = clips.SIDE_PX
        stream.bit_rate = 4_000_000
        for picture in pictures:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode())
    (tmp_path / "notes.txt").write_text("not footage")
    with open_footage([tmp_path]) as (found,):
        assert found.duration_s == pytest.approx(2.0)
        assert found.name == "film"
    (frames,), skipped = read(tmp_path / "film.mp4", start_s=1.2, stop_s=1.5)
    assert not skipped
    np.testing.assert_allclose([f.time_s for f in frames], [1.2, 1.25, 1.3, 1.35, 1.4, 1.45])
    assert np.abs(frames[0].rgb.astype(int) - pictures[24]).mean() < 12
    whole = (tmp_path / "film.mp4").read_bytes()
    (tmp_path / "film.mp4").write_bytes(whole[:100])
    with pytest.raises(InvalidInputError, match=r"film\.mp4"):
        read(tmp_path)


def test_one_unreadable_source_does_not_cost_the_others(tmp_path, clips):
    messages = clips.camera_messages(clips.sliding_square(3))
    for name in ("a", "b"):
        clips.write_bag(tmp_path / name, messages)
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "killed_0.mcap").touch()
    (tmp_path / "film.mp4").write_bytes(b"cut")
    left_out = []
    with open_footage([tmp_path], left_out=left_out) as found:
        assert [each.name for each in found] == ["a/camera/image", "b/camera/image"]
    assert len(left_out) == 2
    assert any("killed_0.mcap is empty" in remark for remark in left_out)
    assert any("film.mp4 is no video" in remark for remark in left_out)
    with pytest.raises(BagError, match=r"killed_0\.mcap is empty"):
        read(tmp_path / "killed")
    with pytest.raises(InvalidInputError, match=r"no topic /gone.*killed is left out"):
        read(tmp_path, ["/gone"])


def test_pictures_of_our_own_and_a_camera_twice_are_left_out_unless_named(tmp_path, clips):
    frames = clips.sliding_square(3)
    cut = {"/front/compressed": 2, "/back": 2}
    topics = [
        *("/front", "/front/compressed", "/back", "/back/compressed", "/side/compressed"),
        *(f"/robot/predictor/{name}" for name in OWN_PICTURES),
        "/robot/predictor/overlay/compressed",
    ]
    messages = [
        message
        for topic in topics
        for message in clips.camera_messages(
            frames[: cut.get(topic, 3)],
            topic,
            clips.JPEG if topic.endswith("/compressed") else clips.IMAGE,
        )
    ]
    bag, left_out = clips.write_bag(tmp_path / "bag", messages), []
    with open_footage([bag], left_out=left_out) as found:
        names = {each.name.removeprefix("bag") for each in found}
    assert names == {"/front", "/back/compressed", "/side/compressed"}
    assert len(left_out) == len(topics) - 3
    assert "bag/front/compressed is left out: the images of /front. Name it" in " ".join(left_out)
    with open_footage([bag], ["/robot/predictor/overlay", "/back"], left_out=left_out) as found:
        assert len(found) == 2
    with BagReader(bag) as reader:
        remarks = {topic.name: topic.remark for topic in survey(reader).topics}
    assert "draws: used only if named" in remarks["/robot/predictor/overlay"]
    assert remarks["/front"] == "160 x 160 px"


def test_the_pictures_of_our_own_are_those_that_our_nodes_publish():
    published = {name for name, (kind, _) in desk._OUTPUTS.items() if kind is Image}
    assert set(OWN_PICTURES) == published | {surprise.PICTURE}


def test_nothing_to_read(tmp_path):
    with pytest.raises(InvalidInputError, match="no images"):
        read(tmp_path)
    with pytest.raises(InvalidInputError, match="no such file"):
        read(tmp_path / "gone")


def test_a_topic_with_its_calibration_beside_it_is_called_calibrated(tmp_path, clips):
    types = clips.STORE.types
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](1, 0), "camera")
    region = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    matrices = np.zeros(5), np.eye(3).ravel(), np.eye(3).ravel(), np.eye(3, 4).ravel()
    info = types[clips.INFO](header, 160, 160, "plumb_bob", *matrices, 0, 0, region)
    cdr = bytes(clips.STORE.serialize_cdr(info, clips.INFO))
    frames = clips.sliding_square(2)
    messages = [
        ("/left/camera_info", clips.INFO, 1_700_000_000_000_000_000, cdr),
        *clips.camera_messages(frames, "/left/image_raw/compressed"),
        *clips.camera_messages(frames, "/right/image_raw"),
    ]
    clips.write_bag(tmp_path / "bag", messages)
    with BagReader(tmp_path / "bag") as reader:
        remarks = {topic.name: topic.remark for topic in survey(reader).topics}
    assert remarks == {
        "/left/camera_info": "",
        "/left/image_raw/compressed": "160 x 160 px, calibrated",
        "/right/image_raw": "160 x 160 px",
    }
