"""Which recordings are taken for one and which for another, and what becomes of them meanwhile."""

import errno
import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from fpt_ros import bag_files
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.data.blocks import together
from fpt_ros.data.clips import make_shards
from fpt_ros.data.clips_report import save_report
from fpt_ros.data.footage import open_footage
from fpt_ros.data.samples import ShardIndex, ShardReader
from fpt_ros.data.tracks import Tracks
from fpt_ros.data.windows import ClipSettings
from fpt_ros.evaluate.runner import load_samples

SETTINGS = ClipSettings(horizon_s=0.5, stride_s=0.5, image_px=64, grid=16)


class Teller:
    """Says that the lower half goes right."""

    name = "teller"

    def __init__(self):
        self.calls = 0

    def track(self, video, points_px, later):
        self.calls += 1
        side = video.shape[1]
        xy = np.stack([points_px + np.float32([side * t / 160, 0]) for t in later])
        xy[:, points_px[:, 1] < side / 2] = points_px[points_px[:, 1] < side / 2]
        return Tracks(xy.astype(np.float32), np.ones(xy.shape[:2], bool))


def write_bag(clips, path, n=70, seed=0, late_s=0.0, **how):
    """A bag of a sliding square that begins later than others; each has stamps of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    late_ns = round(late_s * 1e9)
    start_ns = 1_700_000_000_000_000_000 + late_ns
    messages = [
        (topic, kind, time_ns + late_ns, clips.image_cdr(frame, time_ns + late_ns))
        for (topic, kind, time_ns, _), frame in zip(
            clips.camera_messages([np.zeros((8, 8, 3), np.uint8)] * n),
            clips.sliding_square(n, seed=seed),
            strict=True,
        )
    ]
    assert messages[0][2] == start_ns
    return clips.write_bag(path, messages, **how)


def test_recordings_of_one_name_stay_apart(tmp_path, clips):
    """Two episodes with a camera of the same name: each motion has its own picture."""
    for number in (0, 1):
        write_bag(clips, tmp_path / f"ep{number}" / "cam_high", 20, seed=10 * number)
    report = make_shards(
        [tmp_path / "ep0", tmp_path / "ep1"], [], tmp_path / "out", SETTINGS, Teller()
    )
    text = save_report(tmp_path / "out", report)
    assert all(f"| ep{i}/cam_high/camera/image |" in text for i in (0, 1))
    views = [
        view
        for split in ("train", "val")
        if list((tmp_path / "out").glob(f"{split}-*"))
        for view in ShardIndex.scan(tmp_path / "out", split).views
    ]
    assert {view.family for view in views} == {f"ep{i}/cam_high/camera/image" for i in (0, 1)}
    assert all(len(view.outcomes) == 1 for view in views)
    for view in views:
        truth = clips.sliding_square(1, seed=10 * int(view.family[2]))[0][120:, :30]
        picture = ShardReader().image(view.outcomes[0])[48:, :12]
        assert np.abs(picture.mean((0, 1)) - truth.mean((0, 1))).max() < 12


@pytest.mark.parametrize("names", [("a.b.1", "a.b.2"), ("x/v", "y/v"), ("v", "x/v", "x/y/v")])
def test_every_source_has_a_name_of_its_own(tmp_path, clips, names):
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / name / "1.png"), clips.texture(0))
    sources = [tmp_path / name for name in names]
    with open_footage(sources) as found:
        assert len({each.name for each in found}) == len(names)
    with open_footage([sources[0], sources[0] / "." / "", sources[0]]) as found:
        assert [each.name for each in found] == [Path(names[0]).name]


def test_recordings_that_overlap_are_one_by_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(200):
        n, gap_s = int(rng.integers(1, 9)), rng.uniform(0, 2)
        starts = [None if rng.random() < 0.2 else round(rng.uniform(0, 20) * 1e9) for _ in range(n)]
        spans = [(start, rng.uniform(0, 4)) for start in starts]
        linked = np.eye(n, dtype=bool)
        for i, (a, a_s) in enumerate(spans):
            for j, (b, b_s) in enumerate(spans):
                if a is not None and b is not None:
                    apart_s = max(a, b) * 1e-9 - min(a * 1e-9 + a_s, b * 1e-9 + b_s)
                    linked[i, j] |= apart_s <= gap_s
        reached = np.linalg.matrix_power(linked.astype(int), n) > 0
        truth = {tuple(np.flatnonzero(row)) for row in reached}
        assert {tuple(group) for group in together(spans, gap_s)} == truth


def test_what_overlapping_recordings_show_is_never_in_two_splits(tmp_path, clips):
    """Five short ones, each beginning before the last has ended, as hard cases do."""
    starts_s = [0.0, 1.1, 2.3, 3.2, 4.4]
    for number, late_s in enumerate(starts_s):
        write_bag(clips, tmp_path / "cases" / f"case{number}", 16, late_s=late_s)
    make_shards([tmp_path / "cases"], [], tmp_path / "out", SETTINGS, Teller())
    seen = {"train": [], "val": []}
    for ledger in map(json.loads, map(Path.read_text, (tmp_path / "out" / "blocks").iterdir())):
        for about in ledger["samples"]:
            late_s = starts_s[int(about["family"][4])]
            seen[ledger["split"]].append(late_s + about["time_s"])
    assert seen["train"]
    assert seen["val"]
    train = ShardIndex.scan(tmp_path / "out", "train")
    assert len({view.family for view in train.views}) > 1
    blocks = {view.scene_seed for view in train.views}
    assert len({sample.scene for sample in load_samples(train)}) == len(blocks)
    apart_s = np.abs(np.subtract.outer(seen["train"], seen["val"])).min()
    assert apart_s >= 2 * SETTINGS.horizon_s - 0.1


def test_what_overlapping_bags_of_one_camera_show_gives_samples_once(tmp_path, clips):
    messages = clips.camera_messages(clips.sliding_square(90))
    pieces = {"a": (0, 30), "b": (21, 51), "c": (27, 60), "d": (27, 60), "e": (55, 90)}
    for name, (first, stop) in pieces.items():
        clips.write_bag(tmp_path / "cases" / name, messages[first:stop])
    settings = ClipSettings(horizon_s=0.5, stride_s=0.1, image_px=64, grid=16)
    make_shards([tmp_path / "cases"], [], tmp_path / "out", settings, Teller())
    ledgers = map(json.loads, map(Path.read_text, (tmp_path / "out" / "blocks").iterdir()))
    firsts = sorted(
        pieces[about["family"][0]][0] + round(10 * about["time_s"])
        for ledger in ledgers
        for about in ledger["samples"]
    )
    assert firsts == sorted(set(firsts))
    clips.write_bag(tmp_path / "whole", messages)
    assert len(firsts) > 0.8 * sum(
        make_shards([tmp_path / "whole"], [], tmp_path / "w", settings, Teller()).samples.values()
    )


@pytest.mark.parametrize("delay_ns", [0, 30_000_000, -30_000_000])
def test_two_recorders_of_one_camera_give_its_images_once(tmp_path, clips, delay_ns):
    """One loses the camera early, and goes on with another topic; it gets all a little later."""
    messages = clips.camera_messages(clips.sliding_square(90))
    text = bytes(clips.STORE.serialize_cdr(clips.STORE.types[clips.STRING]("x"), clips.STRING))
    a = [(topic, kind, time_ns + delay_ns, cdr) for topic, kind, time_ns, cdr in messages[:40]]
    a.append(("/said", clips.STRING, messages[80][2], text))
    clips.write_bag(tmp_path / "cases" / "a", a)
    clips.write_bag(tmp_path / "cases" / "b", messages[21:])
    settings = ClipSettings(horizon_s=0.5, stride_s=0.1, image_px=64, grid=16)
    make_shards([tmp_path / "cases"], [], tmp_path / "out", settings, Teller())
    ledgers = map(json.loads, map(Path.read_text, (tmp_path / "out" / "blocks").iterdir()))
    firsts = sorted(
        (0 if about["family"][0] == "a" else 21) + round(10 * about["time_s"])
        for ledger in ledgers
        for about in ledger["samples"]
    )
    assert len(firsts) == len(set(firsts))
    clips.write_bag(tmp_path / "whole", messages)
    assert len(firsts) > 0.8 * sum(
        make_shards([tmp_path / "whole"], [], tmp_path / "w", settings, Teller()).samples.values()
    )


def test_work_goes_on_with_the_recordings_it_began_with(tmp_path, clips, caplog):
    bags, out, again = tmp_path / "bags", tmp_path / "out", Teller()
    write_bag(clips, bags / "monday")
    report = make_shards([bags], [], out, SETTINGS, Teller())
    write_bag(clips, bags / "tuesday", late_s=100)
    (out / "blocks" / "00001.json").unlink()
    assert make_shards([bags], [], out, SETTINGS, again) == report
    assert again.calls > 0
    assert "tuesday" in caplog.text
    assert "monday" not in caplog.text
    shutil.rmtree(bags)
    assert make_shards([bags], [], out, SETTINGS, again) == report
    (out / "blocks" / "00001.json").unlink()
    with pytest.raises(InvalidInputError, match="monday"):
        make_shards([bags], [], out, SETTINGS, again)
    write_bag(clips, bags / "monday", 80)
    with pytest.raises(InvalidInputError, match="changed since"):
        make_shards([bags], [], out, SETTINGS, again)
    with pytest.raises(InvalidInputError, match="other topics"):
        make_shards([bags], ["/camera/image"], out, SETTINGS, again)


def test_few_bags_are_open_and_few_expanded_at_a_time(tmp_path, clips):
    how = {"plugin": StoragePlugin.SQLITE3, "mode": CompressionMode.FILE}
    for number in range(9):
        write_bag(clips, tmp_path / "bags" / f"b{number}", 3, late_s=10 * number, **how)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with open_footage([tmp_path / "bags"], scratch=scratch) as found:
        assert len(found) == 9
        for each in [*found, *found[::-1]]:
            assert len(list(each.frames(0, 9, Counter()))) == 3
            assert 1 <= len(list(scratch.iterdir())) <= 4
    assert not list(scratch.iterdir())


def test_a_disk_that_fills_up_meanwhile_costs_time_and_no_samples(tmp_path, clips, monkeypatch):
    """Six compressed parts: what the disk cannot hold now is read when the work goes on."""
    messages = clips.camera_messages(clips.sliding_square(72))
    how = {"plugin": StoragePlugin.SQLITE3, "mode": CompressionMode.FILE}
    bag, out, whole = tmp_path / "bag", tmp_path / "out", tmp_path / "whole"
    bag.mkdir()
    for number in range(6):
        part = messages[12 * number : 12 * number + 12]
        (file,) = clips.write_bag(tmp_path / f"p{number}", part, **how).glob("*.zstd")
        file.rename(bag / file.name)
    report = make_shards([bag], [], whole, SETTINGS, Teller())

    def fill(share, doing):
        if share > 0.4:
            monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))

    with pytest.raises(OSError, match=r"cannot read the bag .* to spare.*start again"):
        make_shards([bag], [], out, SETTINGS, Teller(), progress=fill)
    assert 0 < len(list((out / "blocks").iterdir())) < len(list((whole / "blocks").iterdir()))
    with pytest.raises(OSError, match="to spare"):  # full from the beginning
        make_shards([bag], [], out, SETTINGS, Teller())
    monkeypatch.undo()
    assert make_shards([bag], [], out, SETTINGS, Teller()) == report
    assert not report.skipped


def test_parts_are_surveyed_once_however_many_bags_there_are(tmp_path, clips, monkeypatch):
    """Six split bags in turn, as blocks of time go through them."""
    messages = clips.camera_messages(clips.sliding_square(9))
    bags, pieces = tmp_path / "bags", tmp_path / "pieces"
    pieces.mkdir()
    for number in range(6):
        bag = bags / f"b{number}"
        bag.mkdir(parents=True)
        for part in range(3):
            piece = clips.write_bag(pieces / f"{number}{part}", messages[3 * part :][:3])
            next(piece.glob("*.mcap")).rename(bag / f"{part}.mcap")
    opened = []
    reader = bag_files._reader
    monkeypatch.setattr(bag_files, "_reader", lambda *a: opened.append(a[0]) or reader(*a))
    with open_footage([bags]) as found:
        for part in range(3):
            for each in found:
                frames = list(each.frames(0.3 * part, 0.3 * part + 0.25, Counter()))
                assert len(frames) == 3
    assert len(opened) <= 6 * 3 * 2  # to survey them, and to read them


@pytest.mark.parametrize("name", ["bag.mcap", "film.mp4"])
def test_what_cannot_be_opened_for_now_is_not_left_out(tmp_path, clips, monkeypatch, name):
    pytest.importorskip("av")
    for bag in ("bag", "other"):
        clips.write_bag(tmp_path / bag, clips.camera_messages(clips.sliding_square(3)))
    (tmp_path / "film.mp4").write_bytes(b"cut")
    opened = Path.open

    def fail(self, *how, **more):
        if self.name == name:
            raise OSError(errno.ESTALE, "Stale file handle", str(self))
        return opened(self, *how, **more)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OSError, match=f"Stale file handle.*{name}"), open_footage([tmp_path]):
        pass
    monkeypatch.undo()
    with open_footage([tmp_path]) as found:
        assert len(found) == 2


def test_a_picture_that_was_there_is_missed_and_a_link_to_none_is_counted(tmp_path, clips):
    cv2.imwrite(str(tmp_path / "1.png"), clips.texture(0))
    (tmp_path / "2.png").symlink_to("gone.png")
    skipped = Counter()
    with open_footage([tmp_path]) as (footage,):
        assert len(list(footage.frames(0, 9, skipped))) == 1
        assert sum(skipped.values()) == 1
        (tmp_path / "1.png").unlink()
        with pytest.raises(FileNotFoundError):
            list(footage.frames(0, 9, skipped))


def test_footage_is_as_long_as_it_was_recorded_whatever_the_stamps_say(tmp_path, clips):
    messages = [
        (topic, kind, time_ns, clips.image_cdr(frame, 5 * 10**9 + i * 10**8))  # of a simulation
        for i, ((topic, kind, time_ns, _), frame) in enumerate(
            zip(
                clips.camera_messages([np.zeros((8, 8, 3), np.uint8)] * 30),
                clips.sliding_square(30),
                strict=True,
            )
        )
    ]
    clips.write_bag(tmp_path / "bag", messages)
    report = make_shards([tmp_path / "bag"], [], tmp_path / "out", SETTINGS, Teller())
    assert sum(report.samples.values()) > 0
    assert sum(report.footage_s.values()) == pytest.approx(2.8, abs=0.7)


def test_pictures_are_as_the_sensor_saw_them_and_not_larger_than_accepted(tmp_path, clips):
    picture = clips.texture(0)[:, :120]
    _, jpeg = cv2.imencode(".jpg", picture[..., ::-1])
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    marker = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    turned = jpeg.tobytes()[:2] + marker + jpeg.tobytes()[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (120, 160, 3)
    (tmp_path / "1.jpg").write_bytes(turned)
    _, png = cv2.imencode(".png", picture)
    huge = png.tobytes()[:16] + (60_000).to_bytes(4, "big") * 2 + png.tobytes()[24:]
    (tmp_path / "2.png").write_bytes(huge)
    skipped = Counter()
    with open_footage([tmp_path]) as (footage,):
        (frame,) = footage.frames(0, 9, skipped)
    assert frame.rgb.shape == (160, 120, 3)
    assert list(skipped) == ["undecodable image (data claims N x N px; from N to N are accepted)"]


def test_videos_with_too_large_pictures_are_refused(tmp_path, clips, monkeypatch):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "film.mp4"), "w") as film:
        stream = film.add_stream("mpeg4", rate=20)
        stream.width = stream.height = clips.SIDE_PX
        for picture in clips.sliding_square(4):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode())
    with open_footage([tmp_path / "film.mp4"]) as (footage,):
        monkeypatch.setattr("fpt_ros.data.videos.MAX_COMPRESSED_PIXELS", 100 * 100)
        monkeypatch.setattr("fpt_ros.data.videos._VIDEO_OPTIONS", {"max_pixels": str(100 * 100)})
        skipped = Counter()
        assert list(footage.frames(0, 9, skipped)) == []  # grown since it was opened
        assert skipped["undecodable picture"] > 0
    with pytest.raises(InvalidInputError, match="160 x 160 px"), open_footage([tmp_path]):
        pass


@pytest.mark.parametrize("swapped", [False, True])
def test_pictures_come_in_order_also_where_a_video_confuses_its_times(tmp_path, clips, swapped):
    """Pictures that refer to later ones, whose times of showing were lost in copying."""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "film.mp4"), "w") as film:
        stream = film.add_stream("libx264", rate=10, options={"bf": "3", "crf": "15"})
        stream.width = stream.height = clips.SIDE_PX
        packets = []
        for picture in clips.sliding_square(40, step_px=2):
            packets += stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        packets += stream.encode()
        assert [p.pts for p in packets] != sorted(p.pts for p in packets)
        packets_begin = packets[0].dts  # below zero
        for packet in packets:
            if swapped:
                packet.dts -= packets_begin
                packet.pts = packet.dts
            film.mux(packet)
    skipped = Counter()
    with open_footage([tmp_path / "film.mp4"]) as (footage,):
        frames = list(footage.frames(0, 9, skipped))
    steps_s = np.diff([frame.time_s for frame in frames])
    assert (np.abs(steps_s - 0.1) < 1e-3).sum() >= len(steps_s) - swapped
    assert all(frame.follows for frame in frames)
    assert set(skipped) <= {"picture without a time"}  # the last ones, of which no more is known
    assert len(frames) + sum(skipped.values()) == 40
    assert len(frames) >= 37
    for frame, picture in zip(frames, clips.sliding_square(40, step_px=2), strict=False):
        assert np.abs(frame.rgb.astype(int) - picture).mean() < 12
