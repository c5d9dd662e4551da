"""The demonstration of fine-tuning prepares its data and calls `fpt finetune` with it."""

import os
import sys

import cv2
import numpy as np
import pytest

import fpt_ros.data.scenes  # noqa: F401  chooses MUJOCO_GL before anything imports mujoco
from demo import finetune
from fpt_ros.bags import BagReader
from fpt_ros.data.samples import ShardIndex


@pytest.fixture
def called(monkeypatch):
    """Arguments of the calls of `fpt`, which says "not promoted"."""
    calls = []
    monkeypatch.setattr(finetune, "fpt", lambda arguments: calls.append(arguments) or 1)
    return calls


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["demo.finetune", *map(str, arguments)])
    return finetune.main()


def test_the_bundled_recording_and_options_of_fpt_finetune(monkeypatch, called, tmp_path):
    assert run(monkeypatch, "--out", tmp_path / "out", "--steps", 7) == 0
    (arguments,) = called
    assert arguments[:3] == ["finetune", "--bag", str(finetune.BAG)]
    assert arguments[-2:] == ["--steps", "7"]
    assert "--minutes" not in arguments


def test_only_what_a_demonstration_made_is_removed(monkeypatch, called, tmp_path, capsys):
    (tmp_path / "bags" / "mine").mkdir(parents=True)
    assert run(monkeypatch, "--out", tmp_path) == 2
    assert "bags is not of this demonstration" in capsys.readouterr().err
    assert (tmp_path / "bags" / "mine").exists()

    out = tmp_path / "out"
    assert run(monkeypatch, "--out", out) == 0
    (out / "run").mkdir()
    (out / "mine").touch()
    assert run(monkeypatch, "--out", out) == 0
    assert not (out / "run").exists()
    assert (out / "mine").exists()
    (out / "run").mkdir()
    assert run(monkeypatch, "--out", out, "--resume") == 0
    assert (out / "run").exists()


def test_footage_becomes_bags(monkeypatch, called, tmp_path):
    for name, codec in (("box.mp4", "mp4v"), ("vtest.avi", "MJPG")):
        video = cv2.VideoWriter(str(tmp_path / name), cv2.VideoWriter_fourcc(*codec), 10, (64, 48))
        for level in range(5):
            video.write(np.full((48, 64, 3), 50 * level, np.uint8))
        video.release()
    out = tmp_path / "out"
    assert run(monkeypatch, "--footage", tmp_path, "--out", out) == 0
    assert called[0][1:4] == ["--bag", str(out / "bags" / "box"), str(out / "bags" / "vtest")]
    with BagReader(out / "bags" / "vtest") as bag:
        counts = {topic.name: topic.message_count for topic in bag.topics}
        assert bag.duration_s == pytest.approx(0.4)
        start_ns = bag.start_ns
    with BagReader(out / "bags" / "box") as bag:
        assert bag.end_ns + 600 * 10**9 < start_ns  # not at the same time
    assert counts["/camera/image_raw/compressed"] == 5


def test_missing_footage_is_said(monkeypatch, called, tmp_path, capsys):
    assert run(monkeypatch, "--footage", tmp_path, "--out", tmp_path / "out") == 2
    assert "holds none of box.mp4, umi_cup.gif, vtest.avi" in capsys.readouterr().err
    assert not called


@pytest.mark.skipif(os.environ["MUJOCO_GL"] == "off", reason="no EGL")
def test_unseen_places_are_split_by_views(monkeypatch, called, tmp_path):
    monkeypatch.setattr(finetune, "PLACES", 2)
    monkeypatch.setattr(finetune, "_SEED", 7001)
    assert run(monkeypatch, "--unseen", "laptop", "--out", tmp_path) == 0
    data = tmp_path / "places"
    assert called[0][1:3] == ["--data", str(data)]
    train, test = (ShardIndex.scan(data, split) for split in ("train", "test"))
    assert {view.family for view in train.views + test.views} == {"laptop"}
    assert len(train.views) > len(test.views) >= 1
