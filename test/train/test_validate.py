"""Validation counts as evaluation does, and says what it cannot use."""

import json
import math

import numpy as np
import pytest
import torch

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.mixture import GaussianMixture
from fpt_ros.data.samples import ShardIndex
from fpt_ros.train.validate import ValidationSet, errors_px, measure, validate

MOVED = 0.1
CPU = torch.device("cpu")


class KnowsAll:
    """Answers with the truth once it was poked, and with rest before; both with the same spread."""

    training = False

    def __init__(self, flow):
        self.flow = flow

    def eval(self):
        pass

    def train(self, mode):
        pass

    def encode(self, image):
        return None

    def condition(self, image, poke_xy, poke_flow, mask, static):
        return poke_flow.shape[2]

    def query(self, image, n_pokes, xy):
        return n_pokes

    def mixture(self, n_pokes):
        mean = (self.flow * (n_pokes > 0))[:, None, :, None]
        scale = (0.01 * torch.eye(2)).expand(*mean.shape[:-1], 2, 2)
        return GaussianMixture(torch.zeros(mean.shape[:-1]), mean, scale)


@pytest.fixture
def samples(toy, tmp_path):
    """One view whose camera stands still, and one whose camera moves; a corner moves a little."""
    files = {}
    for view, static in enumerate((True, False)):
        flow = np.zeros((1, 16, 16, 2), np.float16)
        flow[0, :4, :4, 0] = 0.007  # less than what evaluation calls moving
        flow[0, 8:, 8:, 0] = MOVED
        rng = np.random.default_rng(0)
        files[f"{view}"] = toy.members(rng, view, 0, flow=flow, camera_static=static)
    toy.write_shard(tmp_path / "val-00000.tar", files)
    return tmp_path


def test_moving_is_what_it_is_in_evaluation(samples):
    views = ValidationSet.load(ShardIndex.scan(samples, "val"), 2, 16, 28)
    measured = validate(KnowsAll(views.flow), views, CPU)
    assert measured["epe_px/moving_if_still"] == pytest.approx(448 * MOVED, rel=1e-3)
    # Densities of isotropic Gaussians with 0.01: the divergence is (distance / 0.01)^2 / 2.
    assert measured["nll/one_poke_moving"] == pytest.approx(math.log(2 * math.pi * 1e-4), rel=1e-4)
    for threshold in ("0.5", "1", "2", "4"):
        assert measured[f"iou_kl/{threshold}"] == 1


def test_what_is_not_defined_is_left_out_and_what_is_no_number_is_seen(samples):
    views = ValidationSet.load(ShardIndex.scan(samples, "val"), 2, 16, 28)
    assert "std_error_correlation" not in validate(KnowsAll(views.flow), views, CPU)
    views.flow[0] = 0
    answer = views.flow.clone()
    rows = measure(KnowsAll(answer), views, CPU)
    assert not any("moving" in name for name in rows[0])
    assert rows[1]["epe_px/moving"] == 0
    measured = validate(KnowsAll(answer), views, CPU)
    assert measured["epe_px/moving"] == 0
    assert not any(math.isnan(value) for value in measured.values())
    answer[1, -1] = math.nan
    measured = validate(KnowsAll(answer), views, CPU)
    for name in ("nll/one_poke", "nll/one_poke_moving", "epe_px/all", "epe_px/moving"):
        assert math.isnan(measured[name])
    assert measured["epe_px/moving_if_still"] == pytest.approx(448 * MOVED, rel=1e-3)


def test_views_without_motion_at_the_points_are_not_validated_on(toy, tmp_path, caplog):
    """Of 16 cells per side every other one is kept."""
    flow, unknown = np.zeros((1, 16, 16, 2), np.float16), np.zeros((1, 16, 16), bool)
    flow[0, 0, 0] = MOVED
    unknown[0, 0, 0] = True
    rng = np.random.default_rng(0)
    for name, changes in (("known", {}), ("unknown", {"valid": unknown})):
        (tmp_path / name).mkdir()
        files = {"0": toy.members(rng, 0, 0, flow=flow, **changes)}
        toy.write_shard(tmp_path / name / "val-0.tar", files)
    with pytest.raises(InvalidInputError, match=r"64 points .* nothing moves"):
        ValidationSet.load(ShardIndex.scan(tmp_path / "known", "val"), 1, 8, 28)
    with pytest.raises(InvalidInputError, match="no sample can be validated on"):
        ValidationSet.load(ShardIndex.scan(tmp_path / "unknown", "val"), 1, 8, 28)
    assert "val-0.tar:0: no motion is known at its points" in caplog.text


class ErrsByPokes(KnowsAll):
    """Remembers the pokes; each adds 0.01 of the side to the error, 0.02 at rest."""

    def condition(self, image, poke_xy, poke_flow, mask, static):
        self.poked = torch.cat([poke_xy, poke_flow], dim=-1)[:, 0]
        return poke_flow.shape[2]

    def mixture(self, n_pokes):
        moves = self.flow.norm(dim=-1, keepdim=True) > 0.01
        error = 0.01 * n_pokes * torch.where(moves, 1.0, 2.0)
        mean = (self.flow + error * torch.tensor([0.6, 0.8]))[:, None, :, None]
        scale = (0.01 * torch.eye(2)).expand(*mean.shape[:-1], 2, 2)
        return GaussianMixture(torch.zeros(mean.shape[:-1]), mean, scale)


def test_errors_at_several_numbers_of_pokes(samples):
    views = ValidationSet.load(ShardIndex.scan(samples, "val"), 2, 16, 28)
    views.flow[0, -1] = torch.tensor([0.2, 0.0])  # the longest
    views.valid[0, 5:-1] = False
    views.flow[0, 5:-1] = 0.0
    model = ErrsByPokes(views.flow)
    rows = errors_px(model, views, CPU, (1, 5))
    n_pokes = model.poked.shape[1]
    assert n_pokes == 5
    everything = torch.cat([views.xy.expand(2, -1, -1), views.flow], dim=-1)
    for view, known in enumerate(([0, 1, 2, 3, 4, 255], range(256))):
        index = [everything[view].tolist().index(poke) for poke in model.poked[view].tolist()]
        assert set(index) <= set(known)
        assert len(set(index)) == 5
        if view == 0:
            assert index[0] == 255
    moving = 1 / 6, 64 / 256  # of the known points
    for row, share in zip(rows, moving, strict=True):
        for n in (1, 5):
            assert row["moving", n] == pytest.approx(4.48 * n, rel=1e-3)
            assert row["all", n] == pytest.approx(4.48 * n * (2 - share), rel=1e-3)
    assert errors_px(model, views, CPU, (1, 5)) == rows
    measured = measure(model, views, CPU)
    assert [row["epe_px/moving"] for row in measured] == [row["moving", 1] for row in rows]
    views.flow[0] = 0
    assert set(errors_px(model, views, CPU, (5,))[0]) == {("all", 5)}


def test_views_of_a_scene_are_known_also_when_some_are_left_out(toy, tmp_path):
    rng = np.random.default_rng(0)
    seeds = [3, 5, 3, 8, 5]
    files = {}
    for n, seed in enumerate(seeds):
        files[f"{n}"] = toy.members(rng, n, 0, scene_seed=seed, camera_static=n % 2 == 0)
        meta = json.loads(files[f"{n}"]["json"])
        files[f"{n}"]["json"] = json.dumps(meta | {"view": n}).encode()
    toy.write_shard(tmp_path / "val-00000.tar", files)
    views = ValidationSet.load(ShardIndex.scan(tmp_path, "val"), 5, 16, 28)
    assert views.scene.tolist() == [0, 0, 1, 1, 2]  # in the order of the index


@pytest.mark.parametrize("statics", [(True, False), (False, False)])
def test_parts_are_found_under_still_cameras_only(samples, statics):
    views = ValidationSet.load(ShardIndex.scan(samples, "val"), 2, 16, 28)
    views.camera_static = torch.tensor(statics)
    answer = views.flow.clone()
    answer[1] = MOVED  # everything moves: the IoU of this view is small
    measured = validate(KnowsAll(answer), views, CPU)
    assert measured.get("iou_kl/1") == (1 if any(statics) else None)
    assert measured["epe_px/all"] > 1


def test_different_grids_are_named(toy, samples):
    flow = np.full((1, 8, 8, 2), 0.1, np.float16)
    odd = toy.members(np.random.default_rng(0), 7, 0, flow=flow, part=np.ones((8, 8), np.int16))
    toy.write_shard(samples / "val-00001.tar", {"odd": odd})
    with pytest.raises(InvalidInputError, match=r"val-00001.tar:odd has a grid of 8 cells"):
        ValidationSet.load(ShardIndex.scan(samples, "val"), 3, 16, 28)
