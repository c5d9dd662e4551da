import contextlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.geometry import CropTransform
from fpt_ros.core.pixels import RGB, Pixels, Yuv422
from fpt_ros.images import MAX_COMPRESSED_PIXELS, image_to_pixels, image_to_rgb


def raw(encoding, pixels, padding=0, is_bigendian=0):
    """An Image message; pixels: [H, W, channels] or [H, W] of any dtype."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xAB)
    return SimpleNamespace(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=is_bigendian,
        step=rows.shape[1],
        data=rows.tobytes(),
    )


def compressed(data, text="jpeg"):
    return SimpleNamespace(format=text, data=bytes(data))


def random_rgb(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth_rgb(height=48, width=64):
    y, x = np.mgrid[:height, :width]
    planes = [40 + 3 * x, 220 - 3 * y, 60 + x + y]
    return np.stack(planes, -1).astype(np.uint8)


sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@settings(max_examples=50)
@given(size=sizes, padding=st.integers(0, 7), seed=st.integers(0, 99))
def test_channel_orders_and_padding(size, padding, seed):
    rgb = random_rgb(*size, seed)
    alpha = np.full((*size, 1), 17, np.uint8)
    bgr = rgb[..., ::-1]
    for encoding, pixels in {
        "rgb8": rgb,
        "bgr8": bgr,
        "rgba8": np.concatenate([rgb, alpha], -1),
        "bgra8": np.concatenate([bgr, alpha], -1),
    }.items():
        decoded = image_to_rgb(raw(encoding, pixels, padding))
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, rgb)


@settings(max_examples=50)
@given(size=sizes, padding=st.integers(0, 7), seed=st.integers(0, 99))
def test_grey_of_8_and_16_bits(size, padding, seed):
    grey = np.random.default_rng(seed).integers(0, 65536, size, np.uint16)
    expected = np.repeat((grey // 256).astype(np.uint8)[..., None], 3, -1)
    eight = (grey // 256).astype(np.uint8)
    np.testing.assert_array_equal(image_to_rgb(raw("mono8", eight, padding)), expected)
    little = raw("mono16", grey.astype("<u2"), padding)
    np.testing.assert_array_equal(image_to_rgb(little), expected)
    big = raw("mono16", grey.astype(">u2"), padding, is_bigendian=1)
    np.testing.assert_array_equal(image_to_rgb(big), expected)


@pytest.mark.parametrize(
    ("encoding", "pattern"),
    [
        ("bayer_rggb8", "RGGB"),
        ("bayer_bggr8", "BGGR"),
        ("bayer_gbrg8", "GBRG"),
        ("bayer_grbg8", "GRBG"),
    ],
)
def test_bayer_patterns(encoding, pattern):
    rgb = smooth_rgb()
    mosaic = np.empty(rgb.shape[:2], np.uint8)
    for index, colour in enumerate(pattern):
        y, x = divmod(index, 2)
        mosaic[y::2, x::2] = rgb[y::2, x::2, "RGB".index(colour)]
    decoded = image_to_rgb(raw(encoding, mosaic, padding=3))
    difference = decoded[2:-2, 2:-2].astype(int) - rgb[2:-2, 2:-2]
    assert np.abs(difference).max() <= 3


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422", "UYVY"), ("uyvy", "UYVY"), ("yuv422_yuy2", "YUYV"), ("yuyv", "YUYV")],
)
def test_yuv_is_bt601_with_video_range(encoding, order):
    rng = np.random.default_rng(3)
    y = rng.integers(60, 180, (6, 8)).astype(np.uint8)
    u, v = rng.integers(110, 146, (2, 6, 4)).astype(np.uint8)
    packed = np.empty((6, 4, 4), np.uint8)
    luma = iter((y[:, 0::2], y[:, 1::2]))
    for index, letter in enumerate(order):
        packed[..., index] = next(luma) if letter == "Y" else {"U": u, "V": v}[letter]
    decoded = image_to_rgb(raw(encoding, packed.reshape(6, 8, 2), padding=5))
    luminance = 1.164 * (y - 16.0)
    cb, cr = (np.repeat(c, 2, 1) - 128.0 for c in (u, v))
    expected = np.stack(
        [luminance + 1.596 * cr, luminance - 0.392 * cb - 0.813 * cr, luminance + 2.017 * cb], -1
    )
    np.testing.assert_allclose(decoded, expected, atol=1.5)


def test_rgb8_without_padding_is_not_copied():
    message = raw("rgb8", random_rgb(4, 5))
    assert np.shares_memory(image_to_rgb(message), np.frombuffer(message.data, np.uint8))


BYTES = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "mono16": 2}
YUV = ("yuv422", "uyvy", "yuv422_yuy2", "yuyv")
BAYER = ("bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8")


@settings(max_examples=300)
@given(
    encoding=st.sampled_from([*BYTES, *YUV, *BAYER]),
    size=st.tuples(st.integers(4, 40), st.integers(4, 40)),
    input_px=st.integers(1, 48),
    padding=st.integers(0, 7),
    is_bigendian=st.integers(0, 1),
    on_gpu=st.booleans(),
    seed=st.integers(0, 99),
)
def test_torch_makes_of_the_bytes_what_opencv_makes_of_them(
    encoding, size, input_px, padding, is_bigendian, on_gpu, seed
):
    """All that differs between the devices, of which the one at hand is made to do both."""
    height, width = size
    width += encoding in YUV and width % 2
    n_bytes = 2 if encoding in YUV else BYTES.get(encoding, 1)
    data = np.random.default_rng(seed).integers(0, 256, (height, width, n_bytes), np.uint8)
    message = raw(encoding, data, padding, is_bigendian)
    transform = CropTransform(width, height, input_px)
    pixels = image_to_pixels(message, on_gpu)
    assert (pixels.layout == RGB) == (
        encoding in ("rgb8", "rgba8", *BAYER, *(() if on_gpu else YUV))
    )
    actual = transform.crop_and_resize(pixels)
    assert torch.equal(actual, transform.crop_and_resize(Pixels(image_to_rgb(message))))


def test_torch_converts_yuv_as_opencv_does():
    """Every luma with every fifth U and V, the extremes among them."""
    y, u, v = np.meshgrid(np.arange(256), *[np.arange(0, 256, 5)] * 2, indexing="ij")
    packed = np.stack([y, u, 255 - y, v], -1).astype(np.uint8).reshape(256, -1, 2)
    expected = image_to_rgb(raw("yuyv", packed))
    width = packed.shape[1]
    for left in (*range(0, width - 256, 256), width - 256):
        columns = slice(left, left + 256)
        square = Pixels(packed[:, columns], Yuv422(luma=0, chroma=1))
        planes = CropTransform(256, 256, 256).crop_and_resize(square)
        np.testing.assert_array_equal(planes.permute(1, 2, 0), expected[:, columns])


@pytest.mark.parametrize("encoding", ["bgra8", "mono16", "yuyv"])
def test_bytes_that_a_gpu_understands_are_not_copied(encoding):
    n_bytes = BYTES.get(encoding, 2)
    message = raw(encoding, np.zeros((4, 6, n_bytes), np.uint8), padding=3)
    pixels = image_to_pixels(message, on_gpu=True)
    assert np.shares_memory(pixels.data, np.frombuffer(message.data, np.uint8))


@pytest.mark.parametrize(
    "text", ["png", "rgb8; png compressed bgr8", "bgra8; png compressed bgra8", ""]
)
def test_png_is_exact(text):
    rgb = random_rgb(9, 7)
    ok, data = cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))
    assert ok
    np.testing.assert_array_equal(image_to_rgb(compressed(data, text)), rgb)


def test_png_of_16_bits_grey_and_alpha():
    grey = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1300
    _, data = cv2.imencode(".png", grey)
    decoded = image_to_rgb(compressed(data, "mono16; png compressed "))
    np.testing.assert_allclose(decoded[..., 1], grey / 256, atol=1.0)
    rgb = random_rgb(5, 6)
    bgra = np.dstack([rgb[..., ::-1], np.full((5, 6), 9, np.uint8)])
    _, data = cv2.imencode(".png", bgra)
    np.testing.assert_array_equal(image_to_rgb(compressed(data)), rgb)


@pytest.mark.parametrize("text", ["jpeg", "jpg", "rgb8; jpeg compressed bgr8", "bgr8; jpeg"])
def test_jpeg_colours(text):
    rgb = smooth_rgb()
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]))
    np.testing.assert_allclose(image_to_rgb(compressed(data, text)).astype(int), rgb, atol=8)


def test_jpeg_compressed_with_swapped_channels():
    rgb = smooth_rgb()
    _, data = cv2.imencode(".jpg", rgb)  # OpenCV takes it for BGR
    decoded = image_to_rgb(compressed(data, "rgb8; jpeg compressed rgb8"))
    np.testing.assert_allclose(decoded.astype(int), rgb, atol=8)


def test_grey_progressive_and_padded_jpeg():
    grey = smooth_rgb()[..., 0]
    _, data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    padded = bytes(data) + bytes(100)
    decoded = image_to_rgb(compressed(padded, "mono8; jpeg compressed "))
    np.testing.assert_allclose(decoded[..., 2].astype(int), grey, atol=8)


def broken(message, **changes):
    return SimpleNamespace(**{**vars(message), **changes})


GOOD = raw("rgb8", random_rgb(6, 8))


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (broken(GOOD, encoding="32FC1"), "encoding '32FC1'"),
        (broken(GOOD, encoding=""), "encoding ''"),
        (broken(GOOD, height=0, data=b""), "height and width"),
        (broken(GOOD, width=0, step=0, data=b""), "height and width"),
        (broken(GOOD, step=23, data=bytes(6 * 23)), "step must be at least 24"),
        (broken(GOOD, step=0), "step"),
        (broken(GOOD, step=25), "data must hold height * step = 150"),
        (broken(GOOD, data=GOOD.data[:-1]), "data must hold"),
        (broken(GOOD, data=b""), "data must hold"),
        (broken(GOOD, width=2**32 - 1, step=2**32 - 1), "step"),
        (raw("yuv422", np.zeros((4, 5, 2), np.uint8)), "width must be even"),
        (raw("bayer_rggb8", np.zeros((3, 9), np.uint8)), "at least 4 for bayer_rggb8"),
    ],
)
def test_broken_images_name_the_field(message, field):
    for decode in (image_to_rgb, lambda message: image_to_pixels(message, on_gpu=True)):
        with pytest.raises(InvalidInputError, match=field.replace("*", r"\*")):
            decode(message)


def png_header(width, height):
    return (
        b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"
        + width.to_bytes(4, "big")
        + height.to_bytes(4, "big")
        + b"\x08\x02\0\0\0"
        + bytes(8)
        + b"IEND"
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "neither JPEG nor PNG"),
        (b"GIF89a" + bytes(50), "neither JPEG nor PNG"),
        (png_header(100_000, 100_000), "claims 100000 x 100000 px"),
        (png_header(0, 5), "claims 0 x 5 px"),
        (png_header(50, 50), "cannot be decoded"),
        (b"\xff\xd8\xff\xd9", "without the size"),
        (b"\xff\xd8" + b"\xff" * 50 + b"\xff\xd9", "without the size"),
        (b"\xff\xd8\xff\xe0\x00\x00\xff\xd9", "without the size"),
        (bytes(cv2.imencode(".jpg", smooth_rgb())[1])[:-40], "truncated"),
        (bytes(cv2.imencode(".png", smooth_rgb())[1])[:-40], "truncated"),
    ],
)
def test_broken_compressed_images_are_refused(data, reason):
    with pytest.raises(InvalidInputError, match=reason):
        image_to_rgb(compressed(data))


def test_a_jpeg_bomb_is_not_decoded():
    _, data = cv2.imencode(".jpg", smooth_rgb())
    data = bytearray(data.tobytes())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(InvalidInputError, match="claims 65535 x 65535"):
        image_to_rgb(compressed(data))
    assert MAX_COMPRESSED_PIXELS >= 7680 * 4320


@settings(max_examples=300)
@given(
    data=st.binary(max_size=200),
    prefix=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]),
    end=st.sampled_from([b"", b"\xff\xd9", b"IEND"]),
)
def test_noise_never_does_worse_than_invalid_input(data, prefix, end):
    with pytest.raises(InvalidInputError):
        image_to_rgb(compressed(prefix + data + end))


@settings(max_examples=300)
@given(
    encoding=st.sampled_from(
        ["rgb8", "mono16", "bayer_grbg8", "yuv422", "yuv422_yuy2", "bgra8", "nv12"]
    ),
    height=st.integers(0, 9),
    width=st.integers(0, 9),
    step=st.integers(0, 40),
    surplus=st.integers(-2, 2),
)
def test_any_header_gives_an_image_or_invalid_input(encoding, height, width, step, surplus):
    message = SimpleNamespace(
        encoding=encoding,
        height=height,
        width=width,
        step=step,
        is_bigendian=1,
        data=bytes(max(0, height * step + surplus)),
    )
    with contextlib.suppress(InvalidInputError):
        assert image_to_rgb(message).shape == (height, width, 3)
    with contextlib.suppress(InvalidInputError):
        assert image_to_pixels(message, on_gpu=True).data.shape[:2] == (height, width)
