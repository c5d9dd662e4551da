"""Camera messages to arrays of pixels, with NumPy and OpenCV (4 or 5) alone.

Not cv_bridge: it exists only on ROS 2 machines, where it is compiled against one major version of
NumPy and fails with the other, and the common encodings are a few lines each. Messages are read by
the names of their fields, so those of rclpy and those of `rosbags` will both do. They come from the
network: every field is checked before it is used.
"""

import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.pixels import RGB, Channels, Pixels, Yuv422

# A compressed image of a few kB can claim any size; 8K video has 33 million pixels.
MAX_COMPRESSED_PIXELS = 64_000_000

# Bytes per pixel and OpenCV's conversion. OpenCV names a Bayer pattern after the four pixels one
# row and one column further on: its BayerBG is RGGB.
_ENCODINGS: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "mono16": (2, cv2.COLOR_GRAY2RGB),
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2RGB),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUY2),
}

# What torch can make of the bytes where the network runs; mono16 depends on the order of bytes.
_LAYOUTS: dict[str, Channels | Yuv422] = {
    "rgb8": RGB,
    "bgr8": Channels(2, 1, 0),
    "rgba8": RGB,
    "bgra8": Channels(2, 1, 0),
    "mono8": Channels(0, 0, 0),
    "yuv422": Yuv422(luma=1, chroma=0),
    "uyvy": Yuv422(luma=1, chroma=0),
    "yuv422_yuy2": Yuv422(luma=0, chroma=1),
    "yuyv": Yuv422(luma=0, chroma=1),
}


def image_to_rgb(message: Any) -> NDArray[np.uint8]:
    """Decode a sensor_msgs Image or CompressedImage into RGB uint8 [H, W, 3].

    Encodings: rgb8, bgr8, rgba8, bgra8, mono8, mono16 (its upper 8 bits), bayer_*8, yuv422 (UYVY),
    yuv422_yuy2; JPEG and PNG. The result may share the memory of the message.

    Raises:
        InvalidInputError: names the field that is wrong.
    """
    try:
        return _decompressed(message) if hasattr(message, "format") else _decoded(message)
    except cv2.error as error:
        raise InvalidInputError(f"data cannot be decoded: {error.err or error}") from error


def image_to_pixels(message: Any, on_gpu: bool) -> Pixels:
    """Take in what `image_to_rgb` does, but leave colours to torch where it is about as fast.

    The bytes of grey images and of all orders of channels stay as they came. Bayer patterns, JPEG
    and PNG are decoded here. The result may share the memory of the message.

    Args:
        message: sensor_msgs Image or CompressedImage.
        on_gpu: where the pixels go. If so, YUV 4:2:2 stays as it came, too; on a CPU torch would
            take several times as long over it as OpenCV does here.

    Raises:
        InvalidInputError: names the field that is wrong.
    """
    layout = None if hasattr(message, "format") else _layout(message)
    if layout is None or (isinstance(layout, Yuv422) and not on_gpu):
        return Pixels(image_to_rgb(message))
    return Pixels(_packed(message), layout)


def depth_to_metres(message: Any) -> NDArray[np.float32]:
    """Decode a depth Image, 16UC1 (mm) or 32FC1 (m), into [H, W] m; 0 or NaN = unknown (REP 118).

    Raises:
        InvalidInputError: names the field that is wrong.
    """
    kind = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}.get(message.encoding)
    if kind is None:
        raise InvalidInputError(f"encoding {message.encoding!r} of depth is not 16UC1 or 32FC1")
    values = _rows(message, np.dtype((">" if message.is_bigendian else "<") + kind), 1)[..., 0]
    return np.asarray(values * (np.float32(0.001) if kind == "u2" else np.float32(1)), np.float32)


def _rows(message: Any, dtype: "np.dtype[Any]", channels: int) -> NDArray[Any]:
    """View the pixels of an Image as [H, W, channels], without the padding of its rows."""
    height, width, step = message.height, message.width, message.step
    if height < 1 or width < 1:
        raise InvalidInputError(f"height and width must be at least 1, got {height} x {width}")
    row_bytes = width * channels * dtype.itemsize
    if step < row_bytes:
        raise InvalidInputError(
            f"step must be at least {row_bytes} bytes for {width} px {message.encoding}, got {step}"
        )
    data = _bytes_of(message)
    if len(data) != height * step:
        raise InvalidInputError(
            f"data must hold height * step = {height * step} bytes, got {len(data)}"
        )
    pixels = data.reshape(height, step)[:, :row_bytes]
    return pixels.view(dtype).reshape(height, width, channels)


def _packed(message: Any) -> NDArray[np.uint8]:
    """View the pixels of an Image as [H, W, bytes per pixel], if they can be decoded."""
    encoding, size = message.encoding, f"{message.height} x {message.width}"
    if encoding not in _ENCODINGS:
        raise InvalidInputError(f"encoding {encoding!r} is not one of {', '.join(_ENCODINGS)}")
    pixels = _rows(message, np.dtype(np.uint8), _ENCODINGS[encoding][0])
    if isinstance(_LAYOUTS.get(encoding), Yuv422) and message.width % 2:
        raise InvalidInputError(f"width must be even for {encoding}, got {message.width}")
    if encoding.startswith("bayer") and min(pixels.shape[:2]) < 4:
        raise InvalidInputError(f"height and width must be at least 4 for {encoding}, got {size}")
    return pixels


def _decoded(message: Any) -> NDArray[np.uint8]:
    pixels, conversion = np.ascontiguousarray(_packed(message)), _ENCODINGS[message.encoding][1]
    if conversion is None:
        return pixels
    if message.encoding == "mono16":
        pixels = pixels[..., _upper_byte(message)]
    return np.asarray(cv2.cvtColor(pixels, conversion), np.uint8)


def _layout(message: Any) -> Channels | Yuv422 | None:
    if message.encoding == "mono16":
        upper = _upper_byte(message)
        return Channels(upper, upper, upper)
    return _LAYOUTS.get(message.encoding)


def _upper_byte(message: Any) -> int:
    return 0 if message.is_bigendian else 1


def picture_to_rgb(content: bytes) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG file into RGB uint8 [H, W, 3], as the messages that hold such files.

    Raises:
        InvalidInputError: says why it cannot be decoded.
    """
    try:
        bgr = _bgr(np.frombuffer(content, np.uint8), "a file")
    except cv2.error as error:
        raise InvalidInputError(f"data cannot be decoded: {error.err or error}") from error
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _decompressed(message: Any) -> NDArray[np.uint8]:
    bgr = _bgr(_bytes_of(message), message.format)
    # image_transport names the order of channels that it compressed after the codec, as in
    # "rgb8; jpeg compressed bgr8". Only "compressed rgb8" differs from what every codec means.
    if "compressed rgb" in message.format:
        return bgr
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _bgr(data: NDArray[np.uint8], described_as: str) -> NDArray[np.uint8]:
    width, height = _compressed_size(data.tobytes(), described_as)
    if width < 1 or height < 1 or width * height > MAX_COMPRESSED_PIXELS:
        raise InvalidInputError(
            f"data claims {width} x {height} px; from 1 to {MAX_COMPRESSED_PIXELS} are accepted"
        )
    # Pixel coordinates are those of the sensor: a camera's EXIF rotation is not applied.
    bgr = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None or bgr.shape != (height, width, 3):
        raise InvalidInputError(f"data cannot be decoded as {described_as!r}")
    return np.asarray(bgr, np.uint8)


def _bytes_of(message: Any) -> NDArray[np.uint8]:
    return np.frombuffer(message.data, np.uint8)


def _compressed_size(data: bytes, described_as: str) -> tuple[int, int]:
    """Width and height from the header, so that a bomb is not decoded; also refuses a torso."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        if b"IEND" not in data[-64:]:
            raise InvalidInputError(f"data is truncated: a PNG of {len(data)} bytes without an end")
        width, height = struct.unpack_from(">II", data, 16)
        return width, height
    if data.startswith(b"\xff\xd8"):
        # Cameras may pad the end with zeros.
        if not data[-4096:].rstrip(b"\0").endswith(b"\xff\xd9"):
            raise InvalidInputError(
                f"data is truncated: a JPEG of {len(data)} bytes without an end"
            )
        return _jpeg_size(data)
    raise InvalidInputError(f"data is neither JPEG nor PNG (format is {described_as!r})")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        # Start of frame; C4, C8 and CC share the range but mean something else.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    raise InvalidInputError("data is damaged: a JPEG without the size of its image")
