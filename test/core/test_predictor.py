"""The predictor against the bare network with geometry done by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fpt_ros.core import predictor as predictor_module
from fpt_ros.core.checkpoint import save_checkpoint
from fpt_ros.core.config import (
    FPT_SMALL,
    DinoEncoderConfig,
    HeadConfig,
    ModelConfig,
    TransformerConfig,
)
from fpt_ros.core.engine import TorchEngine
from fpt_ros.core.errors import InvalidInputError, NoImageError
from fpt_ros.core.geometry import CropTransform
from fpt_ros.core.mixture import GaussianMixture
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.core.motion import PointFlag
from fpt_ros.core.parts import PartCriterion
from fpt_ros.core.predictor import MotionPredictor

CONFIG = ModelConfig(
    DinoEncoderConfig(input_px=56, width=32, depth=1, heads=2, position_grid=4),
    TransformerConfig(width=32, depth=2, d_head=16),
    HeadConfig(n_components=3),
)
POKES = np.array([[60, 40, 12, -6], [90, 70, -4, 9]], np.float32)
QUERIES = np.array([[30.5, 10], [70, 50], [110, 99]], np.float32)


def network(seed=0, config=CONFIG):
    """A random network in which every parameter matters."""
    torch.manual_seed(seed)
    model = FlowPokeModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.15 * torch.randn_like(parameter))
    return model


def picture(height=100, width=140, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def predictor():
    predictor = MotionPredictor(TorchEngine(network()), horizon_s=0.5)
    predictor.set_image(picture())
    return predictor


def assert_same(one: GaussianMixture, other: GaussianMixture, tolerance=1e-4):
    for name in ("weights", "means", "covariances"):
        torch.testing.assert_close(
            getattr(one, name), getattr(other, name), atol=tolerance, rtol=tolerance
        )


def test_predict_is_the_network_in_pixels_of_the_image(predictor):
    motion, model = predictor.predict(POKES, QUERIES), predictor.engine.model
    # 140 x 100: the middle 100 columns, from column 20 on.
    crop = torch.from_numpy(picture()[:, 20:120].copy()).permute(2, 0, 1)[None]
    pixels = F.interpolate(crop, (56, 56), mode="bicubic", antialias=True).float()
    corner = torch.tensor([20.0, 0.0])
    with torch.no_grad():
        image = model.encode(pixels / 127.5 - 1)
        xy, flow = torch.from_numpy(POKES)[None, None].split(2, dim=-1)
        points = torch.from_numpy(QUERIES)[None, None]
        # Pokes and points in one pass, as in the predictor: in two (`condition`, then `query`)
        # float32 rounds otherwise, and means differ by up to 1e-4 px, covariances by 0.02 px^2.
        unpoked = model.condition(image, xy[:, :, :0], flow[:, :, :0])
        _, raw = model.extend(
            image, unpoked, (xy - corner) / 100, flow / 100, (points - corner) / 100
        )
        unit = model.mixture(raw)[0, 0]
    torch.testing.assert_close(motion.mixture.weights, unit.weights)
    torch.testing.assert_close(motion.mixture.means, unit.means * 100)
    torch.testing.assert_close(motion.mixture.covariances, unit.covariances * 100**2)
    assert motion.mixture.means.dtype == torch.float64
    assert motion.points_px.dtype == np.float32
    assert (motion.points_px == QUERIES).all()
    assert motion.flags.tolist() == [0, 0, 0]
    assert motion.transform.roi == (20, 0, 100)
    assert motion.horizon_s == 0.5


def test_only_the_centre_square_matters(predictor):
    predictor.set_image(picture()[:, 20:120])
    corner = np.array([20, 0])
    square = predictor.predict(POKES - [20, 0, 0, 0], QUERIES - corner)
    predictor.set_image(picture())
    assert_same(predictor.predict(POKES, QUERIES).mixture, square.mixture, 1e-6)


@pytest.mark.parametrize("chunk", [3, 4096])
def test_candidates_equal_single_calls(predictor, chunk, monkeypatch):
    monkeypatch.setattr(predictor_module, "_TOKENS", chunk)
    candidates = [POKES[:1], [], POKES, POKES[::-1], POKES[1:], np.repeat(POKES, 4, axis=0)]
    queries = np.concatenate([QUERIES, [[5, 5]]])
    together = predictor.predict_candidates(candidates, queries)
    assert together.mixture.batch_shape == (6, 4)
    assert together.flags.shape == (6, 4)
    monkeypatch.setattr(predictor_module, "_TOKENS", 4096)
    for index, pokes in enumerate(candidates):
        alone = predictor.predict(pokes, queries)
        assert_same(together.mixture[index, :3], alone.mixture[:3])
        assert (together.flags[index] == alone.flags).all()


def test_points_the_model_did_not_see_are_flagged_and_nan(predictor):
    points = [[19.5, 50], [20, 50], [120, 100], [121, 50], [-1, 50], [70, 101]]
    motion = predictor.predict(POKES, points)
    roi, image = PointFlag.OUTSIDE_ROI, PointFlag.OUTSIDE_IMAGE
    assert motion.flags.tolist() == [roi, 0, 0, roi, roi | image, roi | image]
    seen = motion.flags == 0
    for values in (motion.mixture.weights, motion.mixture.means, motion.mixture.covariances):
        assert values[seen].isfinite().all()
        assert values[~seen].isnan().all()
    assert_same(motion.mixture[seen], predictor.predict(POKES, np.array(points)[seen]).mixture)
    assert predictor.predict(POKES, [[0, 0]]).flags.tolist() == [roi]


@pytest.mark.parametrize("chunk", [3, 4096])
def test_of_several_candidates_those_with_unseen_contacts_are_flagged(
    predictor, chunk, monkeypatch
):
    monkeypatch.setattr(predictor_module, "_TOKENS", chunk)
    beside, outside = [[10, 40, 5, 0]], [[-1, 40, 5, 0]]
    candidates = [beside, POKES[:1], np.concatenate([POKES, outside]), [], POKES]
    queries = np.concatenate([QUERIES, [[5, 5]]])
    motion = predictor.predict_candidates(candidates, queries)
    contact, roi = PointFlag.CONTACT_OUTSIDE_ROI, PointFlag.OUTSIDE_ROI
    valid, unseen = [0, 0, 0, roi], [contact, contact, contact, contact | roi]
    assert motion.flags.tolist() == [unseen, valid, unseen, valid, valid]
    for index in (1, 3, 4):
        alone = predictor.predict(candidates[index], queries)
        assert_same(motion.mixture[index, :3], alone.mixture[:3])
    for values in (motion.mixture.weights, motion.mixture.means, motion.mixture.covariances):
        assert values[motion.flags != 0].isnan().all()
    nothing = predictor.predict_candidates([beside, outside], QUERIES)
    assert nothing.flags.tolist() == [[contact] * 3] * 2
    with pytest.raises(InvalidInputError, match=r"candidates\[0\]\[0\] .* outside the square"):
        predictor.predict_candidates([beside], QUERIES)


def test_an_overflow_is_flagged_where_it_happens(predictor, monkeypatch):
    extend = predictor.engine.extend

    def overflowing(*arguments):
        pokes, raw = extend(*arguments)
        raw[0, 0, 1, 4] = math.inf
        return pokes, raw

    monkeypatch.setattr(predictor.engine, "extend", overflowing)
    motion = predictor.predict(POKES, QUERIES)
    assert motion.flags.tolist() == [0, PointFlag.NONFINITE, 0]
    assert motion.mixture.mean().isnan().any(-1).tolist() == [False, True, False]


def test_frames_can_be_kept_and_asked_in_any_order(predictor):
    current = predictor.predict(POKES, QUERIES)
    other = predictor.encode_image(picture(80, 200, seed=5))
    assert_same(predictor.predict(POKES, QUERIES).mixture, current.mixture, 0)
    first = predictor.predict(POKES, QUERIES, frame=other)
    assert first.transform.roi == (60, 0, 80)
    assert first.flags.tolist() == [1, 0, 5]
    predictor.set_image(picture(80, 200, seed=5))
    assert_same(predictor.predict(POKES, QUERIES).mixture[1:2], first.mixture[1:2], 0)


@pytest.mark.parametrize("empty", [[], np.zeros((0, 4)), np.zeros((0,)), ()])
def test_no_pokes_is_the_unconditional_answer(predictor, empty):
    grid = predictor.unconditional_grid(4)
    assert predictor.predict_grid(empty, 4) is grid
    assert_same(predictor.predict(empty, grid.points_px).mixture, grid.mixture, 0)


def test_the_unconditional_grid_is_computed_once_per_frame(predictor, monkeypatch):
    grids = [predictor.unconditional_grid(4), predictor.unconditional_grid(4, camera_static=False)]
    assert not torch.allclose(grids[0].mixture.means, grids[1].mixture.means)
    monkeypatch.setattr(predictor.engine, "condition", None)
    assert predictor.unconditional_grid(4) is grids[0]
    assert predictor.unconditional_grid(4, camera_static=False) is grids[1]
    with pytest.raises(TypeError):
        predictor.unconditional_grid(5)


def test_maps_for_the_same_pokes_share_one_answer(predictor, monkeypatch):
    grid = predictor.predict_grid(POKES, 4)
    unconditional = predictor.unconditional_grid(4)
    monkeypatch.setattr(predictor.engine, "query", None)
    predictor.uncertainty(POKES, 4)
    predictor.moving_parts(POKES, 4)
    assert predictor.predict_grid(POKES, 4) is grid
    monkeypatch.undo()
    assert predictor.predict_grid(POKES[:1], 4) is not grid
    assert predictor.predict_grid(POKES, 4) is not grid  # only the latest is kept
    assert predictor.unconditional_grid(4) is unconditional


def test_the_grid_lies_at_cell_centres_row_by_row(predictor):
    motion = predictor.predict_grid(POKES, 2)
    assert motion.points_px.tolist() == [[45, 25], [95, 25], [45, 75], [95, 75]]
    assert_same(motion.mixture, predictor.predict(POKES, motion.points_px).mixture, 0)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (1, 3), (2160, 3840)])
def test_images_of_any_size(predictor, height, width):
    predictor.set_image(np.full((height, width, 3), 90, np.uint8))
    side = min(height, width)
    poke = [[width / 2, height / 2, 0.1 * side, 0]]
    assert predictor.predict_grid(poke, 3).flags.tolist() == [0] * 9
    assert predictor.uncertainty(poke, 3).shape == (height, width)


# ---- joint samples ----------------------------------------------------------------------------


def brute_force(predictor, frame, pokes, points, order, generator):
    """Flows [S, N, 2] px, each step computed anew with all pokes so far."""
    flows = np.zeros((*order.shape, 2), np.float32)
    sets = [[] for _ in order]
    for step in range(order.shape[1]):
        raw = []
        for sample, visited in zip(sets, order, strict=True):
            answer = predictor.predict(
                [*pokes, *sample], points[visited[step], None], frame=frame
            ).mixture
            raw.append(answer)
        mixture = GaussianMixture(
            torch.cat([each.log_weights for each in raw]),
            torch.cat([each.means for each in raw]),
            torch.cat([each.scale_tril for each in raw]),
        )
        drawn = mixture.sample(1, generator)[0].numpy()
        for row, visited in enumerate(order):
            flows[row, visited[step]] = drawn[row]
            sets[row].append([*points[visited[step]], *drawn[row]])
    return flows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_joint_samples_equal_those_computed_without_a_cache(dtype, monkeypatch):
    monkeypatch.setattr("fpt_ros.core.checks.MAX_POKE_SIDES", math.inf)
    predictor = MotionPredictor(TorchEngine(network().to(dtype)))
    frame = predictor.encode_image(picture())
    points = np.array([[30, 20], [50, 80], [90, 40], [110, 95], [64, 64]], np.float32)
    flows = predictor.sample_jointly(
        POKES, points, 3, torch.Generator().manual_seed(7), frame=frame
    )
    generator = torch.Generator().manual_seed(7)
    order = torch.rand(3, 5, generator=generator).argsort(1).numpy()
    assert len({tuple(row) for row in order}) == 3
    expected = brute_force(predictor, frame, POKES, points, order, generator)
    np.testing.assert_allclose(flows, expected, rtol=2e-3, atol=2e-2)


class PositionTeller:
    """Stands in for a network: says that every point moves by its own position, precisely."""

    def condition(self, image, poke_xy, poke_flow, camera_static):
        return poke_xy

    def query(self, image, pokes, points):
        return points

    def reserve(self, pokes, n):
        return pokes

    def extend(self, image, pokes, poke_xy, poke_flow, points):
        torch.testing.assert_close(poke_flow, poke_xy, atol=1e-6, rtol=0)
        return torch.cat([pokes, poke_xy], 2), points

    def mixture(self, raw):
        scale = 1e-9 * torch.eye(2).expand(*raw.shape[:-1], 1, 2, 2)
        return GaussianMixture(torch.zeros(*raw.shape[:-1], 1), raw[..., None, :], scale)


def test_each_sample_visits_the_points_in_its_own_order_and_undoes_it():
    points = torch.rand(20, 2)
    flows = predictor_module.sample_jointly(
        PositionTeller(), None, points[:2], points[:2], points, 8, torch.ones(1, dtype=torch.bool)
    )
    torch.testing.assert_close(flows, points.expand(8, -1, -1), atol=1e-6, rtol=0)


def test_joint_samples_of_one_point_follow_its_mixture(predictor):
    samples = predictor.sample_jointly(POKES, QUERIES[:1], 1500, torch.Generator().manual_seed(0))
    mixture = predictor.predict(POKES, QUERIES[:1]).mixture
    error = samples[:, 0].mean(0) - mixture.mean()[0].numpy()
    covariance = mixture.covariance()[0].numpy()
    assert (np.abs(error) < 4 * np.sqrt(covariance.diagonal() / 1500)).all()
    np.testing.assert_allclose(
        np.cov(samples[:, 0].T), covariance, rtol=0, atol=0.1 * covariance.trace()
    )


def test_joint_samples_repeat_with_the_seed_and_are_nan_where_nothing_is_seen(
    predictor, monkeypatch
):
    points = np.concatenate([[[0, 0]], QUERIES])

    def draw():
        return predictor.sample_jointly(POKES, points, 5, torch.Generator().manual_seed(3))

    flows = draw()
    assert flows.shape == (5, 4, 2)
    assert flows.dtype == np.float32
    assert np.isnan(flows[:, 0]).all()
    assert np.isfinite(flows[:, 1:]).all()
    np.testing.assert_array_equal(draw(), flows)
    monkeypatch.setattr(predictor_module, "_JOINT_TOKENS", 10)  # two samples at a time
    pieces = draw()
    assert np.isfinite(pieces[:, 1:]).all()
    assert len(np.unique(pieces[:, 1, 0])) == 5
    assert np.isnan(predictor.sample_jointly([], [[0, 0]], 2)).all()


# ---- maps -------------------------------------------------------------------------------------


def test_influence_is_the_divergence_from_the_unconditional_answer(predictor):
    score = predictor.influence(POKES, 5)
    conditional = predictor.predict_grid(POKES, 5).mixture
    divergence = conditional.kl_divergence(predictor.unconditional_grid(5).mixture)
    assert score.shape == (5, 5)
    assert score.dtype == np.float32
    np.testing.assert_allclose(score.ravel(), divergence, rtol=1e-4, atol=1e-6)
    assert predictor.influence([], 5).max() == pytest.approx(0, abs=1e-6)


def test_moving_parts_are_where_the_influence_exceeds_the_threshold(predictor):
    score = predictor.influence(POKES, 4)
    mask, score_map = predictor.moving_parts(POKES, 4, PartCriterion(float(np.median(score)), 0))
    assert mask.shape == score_map.shape == (100, 140)
    assert mask.dtype == bool
    assert np.isnan(score_map[:, :20]).all()
    assert not mask[:, :20].any()
    assert not mask[:, 120:].any()
    for row, column in itertools.product(range(4), range(4)):
        y, x = 12 + 25 * row, 32 + 25 * column  # the pixel at the middle of the cell
        assert score_map[y, x] == pytest.approx(score[row, column], rel=0.05, abs=1e-3)
    assert 0 < mask.mean() < 1


def test_moving_parts_are_where_motion_is_likely(predictor):
    predictor.set_image(picture(6, 10))  # as many cells as pixels
    poke = [[5, 3, 0.4, 0]]
    likely = predictor.predict_grid(poke, 6).mixture.prob_longer_than(0.01 * 6)
    least = float(likely.median())
    mask = predictor.moving_parts(poke, 6, PartCriterion(0.0, least)).mask
    np.testing.assert_array_equal(mask[:, 2:8].ravel(), likely.numpy() >= least)


def test_moving_parts_of_each_poke_alone(predictor):
    criterion = PartCriterion(0.01, 0.0)
    each = predictor.moving_parts(POKES, 4, criterion, per_poke=True)
    assert each.mask.shape == each.score.shape == (2, 100, 140)
    for index in range(2):
        alone = predictor.moving_parts(POKES[index : index + 1], 4, criterion)
        np.testing.assert_allclose(each.score[index], alone.score, rtol=1e-3, atol=1e-4)
    assert predictor.moving_parts([], 4, per_poke=True).mask.shape == (0, 100, 140)


def test_uncertainty_is_the_standard_deviation_in_pixels(predictor):
    predictor.set_image(picture(6, 10))
    # As many grid cells as pixels: nothing is interpolated.
    expected = predictor.predict_grid([[5, 3, 1, 0]], 6).mixture.std().reshape(6, 6)
    values = predictor.uncertainty([[5, 3, 1, 0]], 6)
    np.testing.assert_allclose(values[:, 2:8], expected, rtol=1e-5)
    assert np.isnan(values[:, :2]).all()
    assert np.isnan(values[:, 8:]).all()


# ---- configurations ---------------------------------------------------------------------------


@pytest.mark.parametrize("config", [CONFIG, FPT_SMALL], ids=["published layout", "small"])
def test_checkpoints_of_any_configuration(tmp_path, config):
    model = network(config=config)
    save_checkpoint(tmp_path / "a.safetensors", model, horizon_s=0.25)
    loaded = MotionPredictor.from_checkpoint(tmp_path / "a.safetensors")
    assert loaded.horizon_s == 0.25
    assert len(loaded.model_id) == 12
    original = MotionPredictor(TorchEngine(model))
    for each in (loaded, original):
        each.set_image(picture())
    assert_same(loaded.predict(POKES, QUERIES).mixture, original.predict(POKES, QUERIES).mixture, 0)


def test_autocast_changes_little(predictor):
    exact = predictor.predict(POKES, QUERIES).mixture.mean()
    with torch.autocast("cpu", torch.bfloat16):
        predictor.set_image(picture())
        rough = predictor.predict(POKES, QUERIES).mixture.mean()
        assert predictor.sample_jointly(POKES, QUERIES, 2).shape == (2, 3, 2)
    torch.testing.assert_close(rough, exact, atol=0.05 * exact.abs().max().item(), rtol=0.05)


def test_a_long_computation_can_be_abandoned(monkeypatch):
    class Stop(Exception):
        pass

    calls = itertools.count()

    def hook():
        if next(calls) == 5:
            raise Stop

    monkeypatch.setattr(predictor_module, "_TOKENS", 1)
    predictor = MotionPredictor(TorchEngine(network()), between_chunks=hook)
    predictor.set_image(picture())
    with pytest.raises(Stop):
        predictor.predict_grid(POKES, 4)
    assert next(calls) == 6
    predictor.predict_grid(POKES, 4)


# ---- wrong use --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda p: p.predict([], QUERIES),
        lambda p: p.predict_candidates([[]], QUERIES),
        lambda p: p.predict_grid(POKES, 4),
        lambda p: p.unconditional_grid(4),
        lambda p: p.sample_jointly([], QUERIES, 1),
        lambda p: p.influence([], 4),
        lambda p: p.moving_parts([], 4),
        lambda p: p.uncertainty([], 4),
    ],
)
def test_asking_before_there_is_an_image(ask):
    with pytest.raises(NoImageError, match="set_image"):
        ask(MotionPredictor(TorchEngine(network())))


@pytest.mark.parametrize(
    ("rgb", "message"),
    [
        ([[1, 2], [3, 4]], "numpy array uint8 .* got list"),
        (picture().astype(np.float32), "got float32"),
        (picture()[..., 0], r"got uint8 \[100, 140\]"),
        (np.zeros((4, 4, 4), np.uint8), r"got uint8 \[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"got uint8 \[0, 4, 3\]"),
    ],
)
def test_bad_images_are_refused(predictor, rgb, message):
    with pytest.raises(InvalidInputError, match=message):
        predictor.set_image(rgb)
    predictor.predict(POKES, QUERIES)  # the old image still serves


@pytest.mark.parametrize(
    ("pokes", "message"),
    [
        ([[60, 40, 1]], r"pokes must be numbers \[N, 4\]: x, y, dx, dy; got int64 \[1, 3\]"),
        ([60, 40, 1, 2], r"got int64 \[4\]"),
        (np.zeros((1, 1, 1, 4)), r"got float64 \[1, 1, 1, 4\]"),
        ([[60, 40, 1, 2], [60]], r"pokes must be numbers \[N, 4\]"),
        ([["a", "b", "c", "d"]], r"pokes must be numbers"),
        (np.ones((1, 4), bool), "got bool"),
        (np.ones((1, 4), complex), "got complex128"),
        ([[60, 40, 1, 2], [60, 40, math.nan, 2]], r"pokes\[1\] is not finite"),
        ([[60, 40, 1e39, 2]], r"pokes\[0\] is not finite"),
        ([[60, 40, 0, 0], [141, 40, 0, 0]], r"pokes\[1\] starts at \(141, 40\), outside the image"),
        ([[10, 40, 0, 0]], r"pokes\[0\] .* outside the square .* x from 20 to 120, y from 0 to"),
        ([[60, 40, 201, 0]], r"pokes\[0\] is 201 px long; at most 200 px"),
    ],
)
def test_bad_pokes_are_named(predictor, pokes, message):
    with pytest.raises(InvalidInputError, match=message):
        predictor.predict(pokes, QUERIES)
    several = [[], pokes] if "outside" not in message else [pokes]
    name = rf"candidates\[{len(several) - 1}\]"
    with pytest.raises(InvalidInputError, match=message.replace("pokes", name, 1)):
        predictor.predict_candidates(several, QUERIES)


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ([], "queries must hold at least one point"),
        ([1.0, 2.0], r"queries must be numbers \[N, 2\]: x, y; got float64 \[2\]"),
        (np.zeros((2, 2, 2)), r"got float64 \[2, 2, 2\]"),
        ([[1, 2], [math.inf, 2]], r"queries\[1\] is not finite"),
    ],
)
def test_bad_queries_are_named(predictor, queries, message):
    with pytest.raises(InvalidInputError, match=message):
        predictor.predict(POKES, queries)


def test_other_bad_arguments(predictor):
    with pytest.raises(InvalidInputError, match="candidates must hold at least one"):
        predictor.predict_candidates([], QUERIES)
    for n in (0, 1.5):
        with pytest.raises(InvalidInputError, match="n_samples must be an integer from 1 on"):
            predictor.sample_jointly(POKES, QUERIES, n)
        with pytest.raises(InvalidInputError, match="points_per_step must be an integer from 1"):
            predictor.sample_jointly(POKES, QUERIES, 1, points_per_step=n)
    with pytest.raises(InvalidInputError, match="grid"):
        predictor.predict_grid(POKES, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_too_coarse_for_positions_are_refused(dtype):
    with pytest.raises(InvalidInputError, match="bf16"):
        TorchEngine(network().to(dtype))


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_devices_that_are_not_there_are_named(device):
    with pytest.raises(InvalidInputError, match=f"device '{device}' cannot be used: .+"):
        TorchEngine(network(), device)


@settings(max_examples=40)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    arrays(np.float32, st.tuples(st.integers(0, 4), st.sampled_from([3, 4]))),
    arrays(np.float32, st.tuples(st.integers(0, 3), st.just(2))),
)
def test_any_numbers_give_an_answer_or_a_typed_error(size, pokes, queries):
    predictor = MotionPredictor(TorchEngine(SHARED))
    predictor.set_image(np.zeros((*size, 3), np.uint8))
    try:
        motion = predictor.predict(pokes, queries)
    except InvalidInputError:
        return
    seen = motion.flags == 0
    assert np.isfinite(motion.mixture.means.numpy()[seen]).all()
    assert (seen == CropTransform(size[1], size[0], 56).contains(queries)).all()


SHARED = network()
