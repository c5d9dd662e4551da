"""Trackers against motion that is known: synthetic videos, and stand-ins for learned networks."""

import sys
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.data.tracks.accuracy import measure
from fpt_ros.data.tracks.change import is_cut, thumbnail
from fpt_ros.data.tracks.choice import choose_tracker
from fpt_ros.data.tracks.classical import ClassicalTracker
from fpt_ros.data.tracks.synthetic import known_clip

SIDE_PX = 224


def test_the_truth_of_synthetic_clips_is_what_they_show():
    """What is visible looks the same where it has gone to, up to noise, blur and light."""
    clip = known_clip(3, frames=6, side_px=SIDE_PX)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX].astype(np.float32)
    later = cv2.remap(
        clip.video[5], x + clip.flow[5][..., 0], y + clip.flow[5][..., 1], cv2.INTER_LINEAR
    )
    difference = np.abs(later.astype(float) - clip.video[0]).mean(-1)
    moves = np.linalg.norm(clip.flow[5], axis=-1) > 2
    assert moves.mean() > 0.02
    edge = np.ones((9, 9), np.uint8)  # blur mixes things at their borders
    sure = cv2.erode(clip.visible[5].astype(np.uint8), edge) > 0
    assert difference[sure & moves].mean() < 8
    ignored = np.abs(clip.video[5].astype(float) - clip.video[0]).mean(-1)
    assert ignored[sure & moves].mean() > 1.5 * difference[sure & moves].mean()


def test_accuracy_on_clips_with_known_truth():
    (row,) = measure(ClassicalTracker(), range(3), later=(8,), grid=32)
    assert row["moving: PCK@4px"] > 0.93
    assert row["moving: median error px"] < 1
    assert row["moving: kept"] > 0.1  # they move three times as fast as a camera would see it
    assert row["still: kept"] > 0.6
    assert row["still: PCK@4px"] > 0.98
    assert row["all kept: off by > 4 px"] < 0.03


def disc(x_px: float, colour: int, ground: np.ndarray) -> np.ndarray:
    return cv2.circle(ground.copy(), (int(x_px), 112), 40, (colour,) * 3, -1, cv2.LINE_AA)


def test_plain_ground_is_still_but_a_plain_thing_that_moves_is_not():
    rng = np.random.default_rng(0)
    plain = np.full((SIDE_PX, SIDE_PX, 3), 170.0)
    places = np.linspace(80, 110, 9)
    video = np.stack([disc(x, 60, plain) for x in places])
    video = np.clip(video + rng.normal(0, 1, video.shape), 0, 255).astype(np.uint8)
    points = np.array([[15, 15], [205, 200], [15, 112], [95, 112], [100, 100]], np.float32)
    tracks = ClassicalTracker().track(video, points, [8])
    assert tracks.valid[0, :3].all()
    np.testing.assert_array_equal(tracks.xy[0, :3], points[:3])
    # Inside the disc nothing changes and nothing can be followed: it must not count as still.
    assert not tracks.valid[0, 3:].any()


def test_what_gets_hidden_is_not_kept(clips):
    """A thing slides over points of the ground: they do not go along, nor stay in sight."""
    ground = cv2.resize(clips.texture(5), (SIDE_PX, SIDE_PX))
    cover = cv2.resize(clips.texture(6), (90, 90))
    video = []
    for left in np.linspace(10, 100, 10).astype(int):
        frame = ground.copy()
        frame[60:150, left : left + 90] = cover
        video.append(frame)
    x, y = np.meshgrid(np.arange(112, 182, 6.0), np.arange(72, 140, 6.0))
    points = np.stack([x.ravel(), y.ravel()], axis=-1).astype(np.float32)
    tracks = ClassicalTracker().track(np.stack(video), points, [9])
    assert tracks.valid.mean() < 0.1


def test_cuts_are_told_from_motion_and_light(clips):
    grey = [cv2.cvtColor(clips.texture(seed), cv2.COLOR_RGB2GRAY) for seed in (0, 1)]
    slid = clips.sliding_square(9, 4.0)
    grey += [cv2.cvtColor(slid[i], cv2.COLOR_RGB2GRAY) for i in (0, 8)]
    small = [thumbnail(each) for each in grey]
    assert is_cut(small[0], small[1])
    assert not is_cut(small[0], small[0])
    assert not is_cut(small[2], small[3])
    assert not is_cut(small[0], np.clip(small[0] * 0.7 + 20, 0, 255).astype(np.uint8))
    shaken = np.roll(small[0], 3, axis=1)
    assert not is_cut(small[0], shaken)


class CoTrackerStandIn(torch.nn.Module):
    """The published interface: points 10 px further right and 5 px down at every frame."""

    def __init__(self, checkpoint, offline, window_len):
        super().__init__()
        assert checkpoint is None
        assert offline
        self.model = torch.nn.Linear(2, 2)

    def forward(self, video, queries):
        assert video.shape[2] == 3
        assert 1 < video.max() <= 255
        assert (queries[..., 0] == 0).all()
        t = torch.arange(video.shape[1])[None, :, None, None]
        tracks = queries[:, None, :, 1:] + t * torch.tensor([10.0, 5.0])
        return tracks, tracks[..., 0] < 200


class TapNextStandIn(torch.nn.Module):
    """The published interface: (y, x) in 256 px, 8 px right and 4 px down at every frame."""

    def __init__(self, image_size):
        super().__init__()
        assert image_size == (256, 256)

    def forward(self, video, query_points):
        assert video.shape[2:] == (256, 256, 3)
        assert -1 <= video.min() < 0 < video.max() <= 1
        t = torch.arange(video.shape[1])[None, :, None, None]
        tracks = query_points[:, None, :, 1:] + t * torch.tensor([4.0, 8.0])
        return tracks, None, (200 - tracks[..., 1:]), None


def shift(*vectors):
    return np.array(vectors, np.float32)[:, None]


@pytest.fixture
def stand_ins(monkeypatch):
    def module(name, **content):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        vars(sys.modules[name]).update(content)

    module("cotracker")
    module("cotracker.predictor", CoTrackerPredictor=CoTrackerStandIn)
    module("tapnet")
    module("tapnet.tapnext")
    module("tapnet.tapnext.tapnext_torch", TAPNext=TapNextStandIn)
    restore = SimpleNamespace(f=lambda model, path: model)
    module("tapnet.tapnext.tapnext_torch_utils", restore_model_from_jax_checkpoint=restore.f)


def test_learned_trackers_speak_the_published_interfaces(tmp_path, stand_ins):
    torch.save({"model": torch.nn.Linear(2, 2).state_dict()}, tmp_path / "co.pth")
    np.savez(tmp_path / "tap.npz", x=np.zeros(2))
    video = np.random.default_rng(0).integers(0, 256, (4, 512, 512, 3)).astype(np.uint8)
    rng = np.random.default_rng(1)
    points = rng.uniform(5, 300, (2500, 2)).astype(np.float32)  # more than fit at once
    cotracker = choose_tracker("cotracker3", tmp_path / "co.pth")
    tracks = cotracker.track(video, points, [1, 3])
    np.testing.assert_allclose(tracks.xy, points + shift([10, 5], [30, 15]), atol=1e-3)
    np.testing.assert_array_equal(tracks.valid, tracks.xy[..., 0] - 0.5 < 200)
    tapnext = choose_tracker("tapnext", tmp_path / "tap.npz")
    tracks = tapnext.track(video, points, [1, 3])
    np.testing.assert_allclose(tracks.xy, points + shift([16, 8], [48, 24]), atol=1e-3)
    np.testing.assert_array_equal(tracks.valid, tracks.xy[..., 0] / 2 < 200)


def test_weights_are_read_without_pickle(tmp_path, stand_ins):
    torch.save({"model": SimpleNamespace()}, tmp_path / "evil.pth")
    np.save(tmp_path / "evil.npz", np.array([object()]), allow_pickle=True)
    (tmp_path / "evil.npz.npy").rename(tmp_path / "evil.npz")
    for name, file in (("cotracker3", "evil.pth"), ("tapnext", "evil.npz")):
        with pytest.raises(InvalidInputError, match="is no checkpoint"):
            choose_tracker(name, tmp_path / file)
    with pytest.raises(InvalidInputError, match="needs a file"):
        choose_tracker("tapnext")
    with pytest.raises(InvalidInputError, match="use one of"):
        choose_tracker("psychic")
