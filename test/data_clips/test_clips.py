"""Recordings become samples: motion is right, splits are apart, work can be stopped and goes on."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from fpt_ros.cli import main
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.data.clips import make_shards
from fpt_ros.data.clips_report import save_report
from fpt_ros.data.frames import Frame
from fpt_ros.data.samples import ShardIndex, ShardReader
from fpt_ros.data.tarfiles import new_shard, write_json
from fpt_ros.data.tracks import Tracks
from fpt_ros.data.windows import ClipSettings, clip_samples
from fpt_ros.lock import LOCK_FILE

SETTINGS = ClipSettings(horizon_s=0.5, stride_s=0.5, image_px=64, grid=16)


class Teller:
    """Knows the motion of `sliding_square`, in which the first frame is not known: all go right."""

    name = "teller"

    def __init__(self, step_share=1 / 160, still=0.5):
        self.step, self.still, self.calls = step_share, still, 0

    def track(self, video, points_px, later):
        self.calls += 1
        side = video.shape[1]
        xy = np.stack([points_px + np.array([self.step * side * t, 0]) for t in later]).astype(
            np.float32
        )
        resting = points_px[:, 1] < self.still * side
        xy[:, resting] = points_px[resting]
        return Tracks(xy, np.ones(xy.shape[:2], bool))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, clips):
    """7 s of a sliding square."""
    frames = clips.sliding_square(70)
    return clips.write_bag(tmp_path_factory.mktemp("clips") / "day", clips.camera_messages(frames))


def test_samples_of_a_bag_hold_the_true_motion(recorded, tmp_path, clips):
    heard = []
    report = make_shards(
        [recorded], [], tmp_path, SETTINGS, progress=lambda share, doing: heard.append(share)
    )
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    reader, times_s, right, wrong = ShardReader(), {}, 0, 0
    for split in ("train", "val"):
        index = ShardIndex.scan(tmp_path, split)
        assert index.horizon_s == 0.5
        assert report.samples[split] == len(index.views)
        for view in index.views:
            outcome = view.outcomes[0]
            motion = reader.motion(outcome, 0.005)
            assert motion.camera_static
            assert reader.image(outcome).shape == (64, 64, 3)
            assert view.family == "day/camera/image"
            moving = motion.valid & (np.linalg.norm(motion.flow, axis=-1) > 0.005)
            exact = np.abs(motion.flow - [5 / clips.SIDE_PX, 0]).max(-1) < 0.5 / clips.SIDE_PX
            right, wrong = right + (moving & exact).sum(), wrong + (moving & ~exact).sum()
            assert motion.valid.mean() > 0.5
    assert right > 8 * wrong  # at the border of the square some follow what is behind it
    for ledger in map(json.loads, map(Path.read_text, (tmp_path / "blocks").iterdir())):
        for about in ledger["samples"]:
            times_s.setdefault(ledger["split"], []).append(about["time_s"])
    first_val_s = min(times_s["val"])
    assert max(t for t in times_s["train"] if t < first_val_s) + 2 * 0.5 <= first_val_s + 1e-6
    text = save_report(tmp_path, report)
    assert "| day/camera/image | " in text
    assert (tmp_path / "tracks.png").stat().st_size > 1000


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


def test_stopped_work_goes_on_and_gives_the_same(recorded, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    report = make_shards([recorded], [], whole, SETTINGS, Teller())
    heard = []

    def interrupt(share, doing):
        heard.append(share)
        if len(heard) > 45:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_shards([recorded], [], parts, SETTINGS, Teller(), progress=interrupt)
    assert shards(parts).keys() < shards(whole).keys()
    (parts / ".train-00001.tar.4194305").write_bytes(b"left by a process that was killed")
    again = make_shards([recorded], [], parts, SETTINGS, Teller())
    assert shards(parts) == shards(whole)
    assert list(parts.glob(".*")) == [parts / LOCK_FILE]
    assert again == report
    idle = Teller()
    make_shards([recorded], [], parts, SETTINGS, idle)
    assert idle.calls == 0
    with pytest.raises(InvalidInputError, match="other settings"):
        make_shards([recorded], [], parts, ClipSettings(0.4), Teller())


def test_a_folder_in_which_another_process_works_is_left_alone(recorded, tmp_path):
    expanded = tmp_path / ".expanded" / "of the other"
    expanded.mkdir(parents=True)
    code = (
        "import pathlib, sys; from fpt_ros.lock import hold; hold(pathlib.Path(sys.argv[1]));"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(InvalidInputError, match="another process is at work in"):
            make_shards([recorded], [], tmp_path, SETTINGS, Teller())
        assert expanded.exists()
        process.kill()
    assert make_shards([recorded], [], tmp_path, SETTINGS, Teller()).samples["train"]


def test_blocks_that_a_power_failure_has_damaged_are_made_again(recorded, tmp_path):
    report = make_shards([recorded], [], tmp_path, SETTINGS, Teller())
    whole = shards(tmp_path)
    ledgers = sorted((tmp_path / "blocks").iterdir())
    ledgers[0].write_bytes(b"")
    ledgers[1].write_text("{}")
    (tmp_path / sorted(whole)[-1]).unlink()
    again = Teller()
    assert make_shards([recorded], [], tmp_path, SETTINGS, again) == report
    assert again.calls > 0
    assert shards(tmp_path) == whole
    (tmp_path / "recordings.json").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"recordings\.json is damaged"):
        make_shards([recorded], [], tmp_path, SETTINGS, Teller())


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    def full(_):
        assert {path.name for path in tmp_path.iterdir()} == {"a.json", f".a.json.{os.getpid()}"}
        raise OSError(28, "No space left on device")

    write_json(tmp_path / "a.json", {"a": 1})
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(tmp_path / "a.json", {"a": 2})
    with pytest.raises(OSError, match="No space"), new_shard(tmp_path / "a.json"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}


def frames_at(times_s, pictures):
    return [Frame(t, t, True, p) for t, p in zip(times_s, pictures, strict=True)]


def dropped_of(frames, tracker=None, settings=SETTINGS):
    dropped = Counter()
    samples = [s for s in clip_samples(frames, tracker or Teller(), settings, dropped) if s]
    return len(samples), {reason: n for reason, n in dropped.items() if n}


def test_why_there_is_no_sample(clips):
    pictures = clips.sliding_square(12)
    times = np.arange(12) / 10
    assert dropped_of([]) == (0, {})
    n, dropped = dropped_of(frames_at(times[:1], pictures[:1]))
    assert (n, list(dropped)) == (0, ["cut, gap or end before the horizon"])
    n, dropped = dropped_of(frames_at(times, [pictures[0]] * 12))
    assert (n, "nothing moves" in dropped) == (0, True)
    n, dropped = dropped_of(frames_at(times, pictures), Teller(0.09, still=0.0))
    assert (n, "camera moves too much" in dropped) == (0, True)
    n, dropped = dropped_of(frames_at(times, pictures), Teller(0.0))
    assert (n, "tracking failed (what moves is lost)" in dropped) == (0, True)
    n, dropped = dropped_of(frames_at(times * 4, pictures))
    assert (n, "images too far apart for the horizon" in dropped) == (0, True)
    other = [clips.texture(99)] * 12
    n, dropped = dropped_of(frames_at(np.arange(24) / 10, pictures + other))
    assert (n, dropped["cuts: another scene"]) == (2, 1)
    gap = np.concatenate([times[:6], times[6:] + 1])
    n, dropped = dropped_of(frames_at(gap, pictures))
    assert dropped["cuts: gap between images"] == 1
    wide = [np.pad(p, ((0, 0), (0, 40), (0, 0))) for p in pictures[6:]]
    n, dropped = dropped_of(frames_at(times, pictures[:6] + wide))
    assert dropped["cuts: change of resolution"] == 1


class Listener(Teller):
    """Also keeps which frames it was asked about."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def track(self, video, points_px, later):
        self.asked.append(tuple(later))
        return super().track(video, points_px, later)


@pytest.mark.parametrize("rate_hz", [30, 25, 24, 20, 10])
@pytest.mark.parametrize("first_s", [0.0, 4321.1])  # differences of times are rounded
def test_motion_is_measured_over_the_horizon_and_no_less(clips, rate_hz, first_s):
    settings = ClipSettings(1.0, stride_s=0.2, grid=16, image_px=64)
    n = rate_hz + rate_hz // 2
    tracker = Listener()
    frames = frames_at(first_s + np.arange(n) / rate_hz, clips.sliding_square(n))
    samples = [s for s in clip_samples(frames, tracker, settings, Counter()) if s]
    assert len(samples) == len(tracker.asked) == 3
    halves = {rate_hz // 2, (rate_hz + 1) // 2}  # of 25 frames, two are as near
    assert set(tracker.asked) <= {(half, rate_hz) for half in halves}


@pytest.mark.parametrize(("last", "n_samples"), [(30, 1), (29, 1), (28, 0)])
def test_at_an_end_what_is_near_the_horizon_will_do(clips, last, n_samples):
    """29 frames at 30 Hz are 0.967 s, 28 are 0.933 s."""
    settings = ClipSettings(1.0, grid=16, image_px=64)
    pictures = clips.sliding_square(last + 1)
    for cut in (False, True):
        tracker = Listener()
        frames = frames_at(np.arange(last + 1) / 30, pictures)
        if cut:
            frames.append(Frame(99.0, 99.0, follows=False, rgb=pictures[0]))
        samples = [s for s in clip_samples(frames, tracker, settings, Counter()) if s]
        assert len(samples) == n_samples
        assert tracker.asked == [(15, last)] * n_samples


def test_the_papers_rule_for_a_static_camera(clips):
    pictures = clips.sliding_square(6)
    for still, static in ((0.5, True), (0.25, False)):
        settings = ClipSettings(0.5, grid=16, image_px=64)
        tracker = Teller(0.01, still)
        samples = clip_samples(frames_at(np.arange(6) / 10, pictures), tracker, settings, Counter())
        (sample,) = [s for s in samples if s]
        assert sample.about["camera_static"] is static


@pytest.mark.parametrize(
    "bad",
    [{"horizon_s": 0.0}, {"horizon_s": 60}, {"stride_s": 0}, {"image_px": 9000}, {"grid": 1}],
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(InvalidInputError, match=next(iter(bad))):
        ClipSettings(**{"horizon_s": 1.0, **bad})


def test_a_full_disk_leaves_no_half_shard(recorded, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fpt_ros.data.clips.add_file", full)
    with pytest.raises(OSError, match="No space"):
        make_shards([recorded], [], tmp_path, SETTINGS, Teller())
    assert not [path for path in tmp_path.rglob("*") if ".tar" in path.name]


def test_the_commands_say_what_was_found(recorded, tmp_path, capsys):
    assert main(["bag", "info", str(recorded)]) == 0
    said = capsys.readouterr().out
    assert "/camera/image" in said
    assert "160 x 160 px" in said
    assert main(["tracks", str(recorded), "--out", str(tmp_path), "--topics", "/gone"]) == 2
    assert "/camera/image" in capsys.readouterr().err
    arguments = ["--horizon-s", "0.5", "--stride-s", "2", "--grid", "16", "--image-px", "64"]
    assert main(["tracks", str(recorded), "--out", str(tmp_path / "data"), *arguments]) == 0
    facts = json.loads((tmp_path / "data" / "recordings.json").read_text())
    assert facts["settings"]["horizon_s"] == 0.5
    assert (tmp_path / "data" / "tracks.md").is_file()


def test_of_a_recording_that_was_cut_off_the_commands_say_how_much_they_read(
    tmp_path, clips, capsys, caplog
):
    """A copy of a database that ended too early."""
    messages = clips.camera_messages(clips.sliding_square(70))
    messages.insert(1, ("/camera/second", *messages[0][1:]))
    folder = clips.write_bag(tmp_path / "day", messages, StoragePlugin.SQLITE3)
    (file,) = folder.glob("*.db3")
    file.write_bytes(file.read_bytes()[: int(0.8 * file.stat().st_size)])
    assert main(["bag", "info", str(folder)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    count = int(re.search(r"(\d+) of the 71 messages that were recorded can be read", said)[1])
    assert 50 <= count < 57
    assert re.search(r"day\.db3 .* messages of \d+\.\d of \d+\.\d MB can be read", said)
    report = make_shards([folder], [], tmp_path / "out", SETTINGS, Teller())
    remark = f"{count} of the 71 messages that were recorded can be read"
    assert save_report(tmp_path / "out", report).count(remark) == 1
    assert f"day: {remark}" in report.partial
    assert remark in caplog.text
    assert make_shards([folder], [], tmp_path / "out", SETTINGS, Teller()) == report
