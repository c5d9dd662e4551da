"""Pictures: geometry against closed forms, and robustness to whatever a prediction may hold."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fpt_ros import draw, shapes
from fpt_ros.core.errors import InvalidInputError

WILD = st.floats(width=32, allow_nan=True, allow_infinity=True)


def grey(height: int = 240, width: int = 320) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def changed(picture: np.ndarray, image: np.ndarray) -> np.ndarray:
    return (picture != image).any(-1)


def centroid(mask: np.ndarray) -> np.ndarray:
    y, x = np.nonzero(mask)
    return np.array([x.mean() + 0.5, y.mean() + 0.5])


@pytest.mark.parametrize("at", [(60.5, 80.5), (61.0, 80.25)])
def test_a_ring_sits_on_its_pixel(at):
    image = grey()
    picture = draw.draw_pokes(image, [[*at, 0.0, 0.0]])
    assert centroid(changed(picture, image)) == pytest.approx(at, abs=0.25)
    assert (image == 128).all()


def test_an_arrow_ends_where_the_point_goes():
    image = grey()
    picture = draw.draw_motion(image, [[50.5, 60.5]], [[80.0, 40.0]], minimum_px=1.0)
    y, x = np.nonzero(changed(picture, image))
    reach = np.stack([x + 0.5 - 50.5, y + 0.5 - 60.5], 1)
    along = reach @ np.array([80.0, 40.0]) / np.hypot(80, 40)
    across = np.abs(reach @ np.array([-40.0, 80.0])) / np.hypot(80, 40)
    assert along.min() == pytest.approx(0.0, abs=2.5)
    assert along.max() == pytest.approx(np.hypot(80, 40), abs=2.5)
    assert across.max() < 8


def test_only_motion_worth_showing_is_drawn():
    image = grey()
    points = [[50, 50], [100, 100], [150, 150]]
    assert not changed(draw.draw_motion(image, points, [[2, 0], [np.nan, 9], [0, 0]]), image).any()
    assert changed(draw.draw_motion(image, points, [[3, 0], [0, 0], [0, 0]]), image).any()


def test_a_fine_grid_is_thinned_to_a_regular_one():
    axis = (np.arange(64) + 0.5) / 64 * 240
    points = np.stack(np.meshgrid(axis + 40, axis), -1)
    picture = draw.draw_motion(grey(), points, np.full(points.shape, 4.0), spacing_px=30.0)
    count = 8 * 8  # every eighth point: 3.75 px apart, at least 30 px wanted
    image = grey()
    kept = points[4::8, 4::8].reshape(-1, 2)
    expected = draw.draw_motion(image, kept, np.full((count, 2), 4.0), spacing_px=0.0)
    assert (picture == expected).all()


def test_points_without_an_arrow_do_not_hide_those_beside_them():
    points = [[100.0, 100.0], [101.0, 101.0], [102.0, 102.0]]
    ways = [[np.nan, np.nan], [0.0, 0.0], [50.0, 0.0]]
    expected = draw.draw_motion(grey(), points[2:], ways[2:])
    assert (draw.draw_motion(grey(), points, ways) == expected).all()
    assert (expected != grey()).any()


def test_ellipses_have_the_moments_of_the_gaussian():
    # A uniform distribution over the 2-sigma ellipse has exactly the Gaussian's covariance.
    # OpenCV fills about half a pixel too much all around, hence the tolerances.
    image = np.zeros((500, 500, 3), np.uint8)
    covariance = np.array([3600.0, 1500.0, 2500.0])
    corners = shapes.ellipse(np.array([240.0, 260.0]), covariance, 2.0)
    shapes.fill(image, corners, (255, 255, 255), 1.0)
    y, x = np.mgrid[:500, :500] + 0.5
    weight = image[..., 0] / image[..., 0].sum()
    dx, dy = x - 240, y - 260
    assert [(weight * dx).sum(), (weight * dy).sum()] == pytest.approx([0, 0], abs=0.1)
    moments = [(weight * dx**2).sum(), (weight * dx * dy).sum(), (weight * dy**2).sum()]
    assert np.array(moments) == pytest.approx(covariance, rel=0.02)
    area = 4 * np.pi * np.sqrt(3600 * 2500 - 1500**2)
    assert image[..., 0].sum() / 255 == pytest.approx(area, rel=0.02)


def test_heavier_modes_are_more_opaque_and_light_ones_are_left_out():
    image = grey()
    means, covariances = [[[50, 0], [-50, 0], [0, 60]]], [[[100, 0, 100]] * 3]
    picture = draw.draw_modes(image, [[160, 100]], [[0.7, 0.27, 0.03]], means, covariances)
    difference = np.abs(picture.astype(int) - 128).sum(-1)
    between_ellipses = difference[100 + 14, [210, 110]]  # inside 2 sigma, outside 1 sigma
    assert between_ellipses[0] > between_ellipses[1] > 0
    assert not changed(picture, image)[130:, :].any()


def test_uncertainty_brightens_with_its_value_and_dims_the_unknown():
    image = grey()
    values = np.full((240, 320), np.nan, np.float32)
    values[:, 40:280] = np.linspace(0, 10, 240)
    picture = draw.draw_uncertainty(image, values, top_px=10.0).astype(int).sum(-1)
    assert (picture[:200, :40] == 3 * 64).all()
    assert (np.diff(picture[100, 40:280][::20]) > 0).all()
    assert (draw.draw_uncertainty(image, np.full((240, 320), np.nan)) == 128).all()
    assert draw.draw_influence(image, values, top_nats=10.0)[100, 270].argmax() != 2  # yellow


def test_parts_are_tinted_in_turn_inside_their_border():
    image, masks = grey(), np.zeros((2, 240, 320), bool)
    masks[0, 20:80, 20:80] = masks[1, 120:200, 120:200] = True
    picture = draw.draw_parts(image, masks, [(255, 0, 0), (0, 0, 255)])
    assert picture[50, 50].argmax() == 0
    assert picture[160, 160].argmax() == 2
    assert (picture[100, 100] == 128).all()
    assert (picture[10] == 128).all()


def test_overview_dims_what_the_model_did_not_see_and_writes_the_legend():
    image = grey()
    picture = draw.overview(image, roi=(40, 0, 240))
    assert (picture[:, :40] == 64).all()
    assert (picture[:, 40:280] == 128).all()
    assert changed(draw.overview(image, lines=["horizon 0.5 s"]), image)[:20, :80].any()


def test_a_sheet_holds_all_panels():
    picture = draw.sheet({"one": grey(), "two": grey() // 2, "three": grey() // 4})
    assert picture.shape[0] > 2 * 240
    assert picture.shape[1] > 2 * 320
    for level in (128, 64, 32):
        assert (picture == level).all(-1).sum() >= 240 * 320


@pytest.mark.parametrize(("side", "factor"), [(16, 30), (192, 3), (480, 1), (2160, 1)])
def test_small_images_are_enlarged_by_a_whole_factor(side, factor):
    picture, by = draw.upscaled(grey(side, side + 8))
    assert by == factor
    assert picture.shape == (side * factor, (side + 8) * factor, 3)


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    arrays(np.float32, (3, 4), elements=WILD),
    arrays(np.float32, (9, 2), elements=WILD),
    arrays(np.float32, (2, 3, 6), elements=WILD),
)
def test_any_numbers_on_any_image_give_a_picture(size, pokes, steps, mixture):
    image = grey(*size)
    mask = np.zeros(size, bool)
    mask[::2] = True
    values = np.resize(mixture, size)
    pictures = [
        draw.overview(image, pokes, pokes[:, :2], pokes[:, 2:], mask, lines=["text"]),
        draw.draw_motion(image, np.abs(steps), steps),
        draw.draw_modes(
            image, steps[:2], mixture[..., 0], mixture[..., 1:3], mixture[..., 3:], 0.0
        ),
        draw.draw_uncertainty(image, values),
    ]
    assert all(p.shape == image.shape and p.dtype == np.uint8 for p in pictures)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_saved_picture_keeps_its_colours(tmp_path, name):
    draw.save(tmp_path / name, np.full((16, 16, 3), (200, 90, 30), np.uint8))
    bgr = cv2.imread(str(tmp_path / name))
    assert np.abs(bgr.astype(int) - (30, 90, 200)).max() < 6
    with pytest.raises(OSError, match="cannot be written"):
        draw.save(tmp_path / "nowhere" / name, grey())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw.draw_pokes(grey().astype(float), []), "uint8"),
        (lambda: draw.draw_pokes(grey()[..., 0], []), r"\[H, W, 3\]"),
        (lambda: draw.draw_pokes(grey(), [[1.0, 2.0]]), r"pokes must be \[..., 4\]"),
        (lambda: draw.draw_motion(grey(), [[1, 2]], [[1, 2], [3, 4]]), "equal shapes"),
        (lambda: draw.draw_modes(grey(), [[1, 2]], [[1]], [[[0, 0]]], [[[1, 0]]]), "covariances"),
        (lambda: draw.draw_uncertainty(grey(), np.zeros((3, 3))), "like rgb"),
        (lambda: draw.draw_parts(grey(), np.zeros((240, 320), np.uint8)), "bool"),
        (lambda: draw.sheet({}), "one or more"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()
