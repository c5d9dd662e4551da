"""Small footage with known motion, as frames, videos, folders and bags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from fpt_ros.bags import typestore_for
from fpt_ros.data.tracks import one_opencv_thread

IMAGE = "sensor_msgs/msg/Image"
JPEG = "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"
STRING = "std_msgs/msg/String"
STORE = typestore_for(IMAGE, JPEG, INFO, STRING)
SIDE_PX = 160
RATE_HZ = 10.0


def texture(seed: int, side_px: int = SIDE_PX, cell_px: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(20, 235, (side_px // cell_px, side_px // cell_px, 3)).astype(np.uint8)
    return cv2.resize(coarse, (side_px, side_px), interpolation=cv2.INTER_CUBIC)


def sliding_square(n: int, step_px: float = 1.0, seed: int = 0) -> list[np.ndarray]:
    """A textured square of 64 px at (40, 48) that goes right by `step_px` a frame."""
    ground, patch = texture(seed, cell_px=5), texture(seed + 1, cell_px=5)[:64, :64]
    frames = []
    for i in range(n):
        frame = ground.copy()
        shift = np.array([[1, 0, 40 + step_px * i], [0, 1, 48]], np.float64)
        size = (SIDE_PX, SIDE_PX)
        mask = cv2.warpAffine(np.full((64, 64), 255, np.uint8), shift, size)
        look = cv2.warpAffine(patch, shift, size, borderMode=cv2.BORDER_REPLICATE)
        share = mask[..., None].astype(np.float32) / 255
        frames.append((look * share + frame * (1 - share)).astype(np.uint8))
    return frames


def image_cdr(rgb: np.ndarray, stamp_ns: int, kind: str = JPEG) -> bytes:
    types = STORE.types
    stamp = types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
    header = types["std_msgs/msg/Header"](stamp, "camera")
    height, width = rgb.shape[:2]
    if kind == IMAGE:
        flat = np.ascontiguousarray(rgb).ravel()
        message = types[IMAGE](header, height, width, "rgb8", 0, 3 * width, flat)
    else:
        _, jpeg = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        message = types[JPEG](header, "rgb8; jpeg compressed bgr8", jpeg.ravel())
    return bytes(STORE.serialize_cdr(message, kind))


def write_bag(
    path: Path,
    messages: Sequence[tuple[str, str, int, bytes]],
    plugin: StoragePlugin = StoragePlugin.MCAP,
    mode: CompressionMode = CompressionMode.NONE,
) -> Path:
    """A bag of (topic, type, time of recording ns, CDR)."""
    writer = Writer(path, version=9, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, kind, time_ns, cdr in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], time_ns, cdr)
    return path


def camera_messages(
    frames: Sequence[np.ndarray], topic: str = "/camera/image", kind: str = JPEG
) -> list[tuple[str, str, int, bytes]]:
    start_ns = 1_700_000_000_000_000_000
    times = [start_ns + round(i / RATE_HZ * 1e9) for i in range(len(frames))]
    return [(topic, kind, t, image_cdr(f, t, kind)) for t, f in zip(times, frames, strict=True)]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    with one_opencv_thread():
        yield


@pytest.fixture(scope="session")
def clips() -> SimpleNamespace:
    return SimpleNamespace(
        IMAGE=IMAGE,
        JPEG=JPEG,
        INFO=INFO,
        STRING=STRING,
        STORE=STORE,
        SIDE_PX=SIDE_PX,
        RATE_HZ=RATE_HZ,
        texture=texture,
        sliding_square=sliding_square,
        image_cdr=image_cdr,
        write_bag=write_bag,
        camera_messages=camera_messages,
    )
