"""The crop against Pillow and against exactly known maps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.geometry import CropTransform, _resized
from fpt_ros.core.pixels import RGB, Channels, Pixels, Yuv422

SIZES = st.integers(1, 3000)
TRANSFORMS = st.builds(CropTransform, SIZES, SIZES, st.just(224))


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth_image(height, width):
    y, x = np.mgrid[0:height, 0:width] + 0.5
    waves = [np.sin(x / 7 + 1), np.cos(y / 5), np.sin((x + y) / 11)]
    return np.stack([127.5 + 120 * wave for wave in waves], axis=-1).astype(np.uint8)


def assert_equals_pillow(got, rgb, transform):
    x, y, side = transform.roi
    size = (transform.input_px, transform.input_px)
    square = Image.fromarray(rgb).crop((x, y, x + side, y + side))
    expected = np.array(square.resize(size, Image.Resampling.BICUBIC))
    difference = (got.permute(1, 2, 0).int() - torch.from_numpy(expected).int()).abs()
    # Both round after each of two passes; enlarging can double a difference of the first.
    assert difference.max() <= (1 if side >= transform.input_px else 2)
    assert (difference > 1).sum() <= 1 + 1e-3 * difference.numel()


@pytest.mark.parametrize(
    ("size", "roi"),
    [
        ((640, 480), (80, 0, 480)),
        ((480, 640), (0, 80, 480)),
        ((1, 1), (0, 0, 1)),
        ((11, 10), (0, 0, 10)),  # 0.5 rounds to 0
        ((13, 10), (2, 0, 10)),  # 1.5 rounds to 2
        ((10, 15), (0, 2, 10)),  # 2.5 rounds to 2
    ],
)
def test_crop_is_the_centre_square_rounded_half_to_even(size, roi):
    assert CropTransform(*size, 224).roi == roi


@given(TRANSFORMS)
def test_crop_lies_in_the_image(transform):
    x, y, side = transform.roi
    assert side == min(transform.image_width_px, transform.image_height_px)
    assert 0 <= x <= transform.image_width_px - side
    assert 0 <= y <= transform.image_height_px - side


@pytest.mark.parametrize("sizes", [(0, 4, 4), (4, -1, 4), (4, 4, 0)])
def test_sizes_must_be_positive(sizes):
    with pytest.raises(InvalidInputError, match="at least 1"):
        CropTransform(*sizes)


@given(TRANSFORMS, st.lists(st.tuples(*[st.floats(-5000, 5000)] * 2), max_size=5))
def test_points_and_displacements_round_trip(transform, points):
    points = np.array(points, dtype=np.float64).reshape(-1, 2)
    for kind in (np.asarray, torch.from_numpy):
        there = transform.to_unit(kind(points))
        assert type(there) is type(kind(points))
        np.testing.assert_allclose(transform.to_source(there), points, atol=1e-9)
        there = transform.displacement_to_unit(kind(points))
        np.testing.assert_allclose(transform.displacement_to_source(there), points, atol=1e-9)
        # A displacement is the difference of two points.
        moved = transform.to_unit(kind(points + 7)) - transform.to_unit(kind(points))
        np.testing.assert_allclose(moved, transform.displacement_to_unit(kind(0 * points + 7)))


def test_corners_of_the_crop_are_the_unit_square():
    transform = CropTransform(640, 480, 224)
    corners = np.array([[80, 0], [560, 480]], dtype=np.float32)
    unit = transform.to_unit(corners)
    assert unit.dtype == np.float32
    np.testing.assert_array_equal(unit, [[0, 0], [1, 1]])


def test_contains_and_in_image():
    transform = CropTransform(640, 480, 224)
    points = np.array(
        [
            [80, 0],
            [560, 480],
            [79.9, 5],
            [560.1, 5],
            [100, -0.1],
            [640, 480],
            [640.1, 5],
            [np.nan, 5],
        ]
    )
    crop = [True, True, False, False, False, False, False, False]
    image = [True, True, True, True, False, True, False, False]
    assert transform.contains(points).tolist() == crop
    assert transform.in_image(points).tolist() == image
    assert transform.contains(torch.from_numpy(points)).tolist() == crop
    assert transform.in_image(torch.from_numpy(points)).tolist() == image


@pytest.mark.parametrize(
    ("height", "width", "input_px"),
    [(480, 640, 224), (64, 48, 448), (16, 16, 224), (1080, 1920, 224), (224, 224, 224), (1, 1, 32)],
)
def test_resized_pictures_equal_pillows(height, width, input_px):
    transform = CropTransform(width, height, input_px)
    for image in (smooth_image(height, width), random_image(height, width)):
        got = transform.crop_and_resize(Pixels(image))
        assert got.dtype == torch.uint8
        assert got.shape == (3, input_px, input_px)
        assert_equals_pillow(got, image, transform)


@pytest.mark.parametrize("side", [1, 64, 224, 225, 480, 1080])
def test_resizing_as_gpus_do_equals_pillows(side):
    transform = CropTransform(side, side, 224)
    for image in (smooth_image(side, side), random_image(side, side)):
        planes = torch.from_numpy(image).permute(2, 0, 1)[None]
        assert_equals_pillow(_resized(planes, 224, in_integers=False)[0], image, transform)


@settings(max_examples=60)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 80), st.integers(0, 9))
def test_resized_noise_of_any_size_equals_pillows(height, width, input_px, seed):
    transform = CropTransform(width, height, input_px)
    image = random_image(height, width, seed)
    assert_equals_pillow(transform.crop_and_resize(Pixels(image)), image, transform)


def test_any_memory_layout_is_taken_and_none_is_kept():
    image = random_image(40, 60)
    transform = CropTransform(60, 40, 40)
    expected = transform.crop_and_resize(Pixels(image))
    padded = np.zeros((40, 75, 4), np.uint8)
    padded[:, :60, :3] = image
    flipped = image[::-1, ::-1].copy()[::-1, ::-1]
    read_only = np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape)
    for same in (padded[:, :60, :3], flipped, np.asfortranarray(image), read_only):
        assert torch.equal(transform.crop_and_resize(Pixels(same)), expected)
    image[:] = 0
    assert expected.max() > 0


@pytest.mark.parametrize(
    ("data", "layout", "message"),
    [
        (None, RGB, r"data must be uint8 \[H, W, 3 or more\], got NoneType"),
        (torch.zeros(4, 6, 3, dtype=torch.uint8), RGB, "got Tensor"),
        (np.zeros((4, 6, 3), np.float32), RGB, r"got float32 \[4, 6, 3\]"),
        (np.zeros((4, 6), np.uint8), RGB, r"got uint8 \[4, 6\]"),
        (np.zeros((0, 6, 3), np.uint8), RGB, r"got uint8 \[0, 6, 3\]"),
        (np.zeros((4, 6, 2), np.uint8), RGB, r"got uint8 \[4, 6, 2\]"),
        (np.zeros((4, 6, 1), np.uint8), Channels(1, 1, 1), r"\[H, W, 2 or more\], got uint8"),
        (np.zeros((4, 6, 1), np.uint8), Yuv422(0, 1), r"\[H, W, 2 or more\], got uint8"),
        (np.zeros((4, 5, 2), np.uint8), Yuv422(0, 1), "width must be even in YUV 4:2:2, got 5"),
    ],
)
def test_bytes_that_are_no_image_are_refused(data, layout, message):
    with pytest.raises(InvalidInputError, match=message):
        Pixels(data, layout)


def test_images_of_another_size_are_refused():
    with pytest.raises(InvalidInputError, match="image must be 60 x 40 px, got 40 x 60"):
        CropTransform(60, 40, 32).crop_and_resize(Pixels(random_image(60, 40)))


LAYOUTS = [(4, Channels(2, 1, 0)), (1, Channels(0, 0, 0)), (2, Yuv422(1, 0))]


@pytest.mark.parametrize(("n_bytes", "layout"), LAYOUTS)
def test_no_pixel_decides_what_the_host_does(n_bytes, layout):
    """The device `meta` keeps no values: to read one, as a host does that waits, is an error."""
    pixels = Pixels(np.zeros((12, 14, n_bytes), np.uint8), layout)
    small = CropTransform(14, 12, 8).crop_and_resize(pixels, "meta")
    assert (small.shape, small.dtype, small.device.type) == ((3, 8, 8), torch.uint8, "meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(("n_bytes", "layout"), LAYOUTS)
def test_a_gpu_does_as_the_cpu_and_nobody_waits(n_bytes, layout):
    data = np.random.default_rng(0).integers(0, 256, (480, 642, n_bytes), np.uint8)
    transform = CropTransform(642, 480, 224)  # from the right one of a pair to a left one
    torch.zeros(1, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        small = transform.crop_and_resize(Pixels(data, layout), "cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = transform.crop_and_resize(Pixels(data, layout))
    assert (small.cpu().int() - expected.int()).abs().max() <= 1


def test_grid_is_row_major_at_cell_centres():
    grid = CropTransform(640, 480, 224).grid(2)
    assert grid.dtype == np.float32
    assert grid.tolist() == [[200, 120], [440, 120], [200, 360], [440, 360]]
    for n in (0, 2.5, "2"):
        with pytest.raises(InvalidInputError, match="at least 1"):
            CropTransform(640, 480, 224).grid(n)


@settings(max_examples=40)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40))
def test_pasted_map_interpolates_between_cell_centres(width, height, n):
    """A linear ramp given at the cell centres comes back at the pixel centres, clamped outside."""
    transform = CropTransform(width, height, 32)
    grid = transform.grid(n).astype(np.float64)
    ramp = (2 * grid[:, 0] - 3 * grid[:, 1] + 5).reshape(n, n)
    pasted = transform.paste(ramp, fill=np.nan)
    assert pasted.shape == (height, width)
    assert pasted.dtype == np.float32

    pixels = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
    clamped = np.clip(pixels, grid.min(axis=0), grid.max(axis=0))
    expected = 2 * clamped[..., 0] - 3 * clamped[..., 1] + 5
    expected[~transform.contains(pixels)] = np.nan
    np.testing.assert_allclose(pasted, expected, atol=2e-3)


def test_several_maps_are_pasted_at_once():
    transform = CropTransform(30, 20, 32)
    maps = np.random.default_rng(0).random((2, 3, 4, 4), dtype=np.float32)
    pasted = transform.paste(torch.from_numpy(maps), fill=0)
    assert pasted.shape == (2, 3, 20, 30)
    np.testing.assert_array_equal(pasted[1, 2], transform.paste(maps[1, 2], fill=0))
    assert (pasted[..., :5] == 0).all()
    assert transform.paste(maps[:0], fill=0).shape == (0, 3, 20, 30)


@pytest.mark.parametrize("shape", [(4,), (4, 5), (0, 0)])
def test_maps_must_be_square(shape):
    with pytest.raises(InvalidInputError, match="maps must be"):
        CropTransform(30, 20, 32).paste(np.zeros(shape), fill=0)
