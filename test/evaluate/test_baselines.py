import numpy as np
import pytest

from fpt_ros.evaluate import baselines

GRID = np.stack(np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 9)), axis=-1).reshape(-1, 2)
IMAGE = np.zeros((64, 64, 3), np.uint8)
IMAGE[16:48, 16:48] = (250, 120, 30)


@pytest.mark.parametrize("name", baselines.BASELINES)
@pytest.mark.parametrize("n_pokes", [0, 1, 2, 5, 100])
def test_any_number_of_pokes_gives_finite_flow_and_none_gives_rest(name, n_pokes):
    rng = np.random.default_rng(n_pokes)
    xy, flow = rng.uniform(size=(n_pokes, 2)), rng.normal(size=(n_pokes, 2))
    predicted = baselines.predict(name, IMAGE, xy, flow, GRID)
    assert predicted.shape == GRID.shape
    assert np.isfinite(predicted).all()
    if n_pokes == 0:
        assert not predicted.any()


@pytest.mark.parametrize("name", ["similarity", "thin-plate spline"])
def test_rotation_about_a_hinge_is_recovered_exactly(name):
    rng = np.random.default_rng(1)
    angle, hinge = 0.3, np.array([0.2, 0.7])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def moved(points):
        return (points - hinge) @ rotation.T + hinge - points

    xy = rng.uniform(size=(8, 2))
    np.testing.assert_allclose(
        baselines.predict(name, IMAGE, xy, moved(xy), GRID), moved(GRID), atol=1e-8
    )


def test_two_pokes_at_one_place_do_not_break_the_fits():
    xy, flow = np.full((2, 2), 0.5), np.array([[0.1, 0.0], [0.1, 0.0]])
    for name in baselines.BASELINES:
        assert np.isfinite(baselines.predict(name, IMAGE, xy, flow, GRID)).all()


def test_nearest_poke_against_brute_force():
    rng = np.random.default_rng(2)
    xy, flow = rng.uniform(size=(7, 2)), rng.normal(size=(7, 2))
    nearest = np.argmin(np.linalg.norm(GRID[:, None] - xy[None], axis=-1), axis=1)
    predicted = baselines.predict("nearest poke", IMAGE, xy, flow, GRID)
    np.testing.assert_array_equal(predicted, flow[nearest])


def test_segment_copy_moves_the_poked_square_only():
    poke, flow = np.array([[0.5, 0.5]]), np.array([[0.2, -0.1]])
    predicted = baselines.predict("segment copy", IMAGE, poke, flow, GRID)
    inside = (np.abs(GRID - 0.5) < 0.2).all(axis=1)
    outside = (np.abs(GRID - 0.5) > 0.3).any(axis=1)
    np.testing.assert_array_equal(predicted[inside], np.broadcast_to(flow, (inside.sum(), 2)))
    assert not predicted[outside].any()
