"""Make the bundled recording, demo/bag, from three public clips (sources and licences: NOTICE).

    python -m demo.make_bag --source FOLDER    # with cup.mp4, box.mp4, umi_cup.gif

The result is the same, byte for byte, with the same versions of OpenCV, PyAV and rosbags.
"""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)

from fpt_ros.bags import BagWriter, typestore_for

IMAGE_TYPE = "sensor_msgs/msg/CompressedImage"
INFO_TYPE = "sensor_msgs/msg/CameraInfo"
IMAGE_TOPIC = "/camera/image_raw/compressed"
INFO_TOPIC = "/camera/camera_info"
TYPES = {IMAGE_TOPIC: IMAGE_TYPE, INFO_TOPIC: INFO_TYPE}
FRAME_ID = "camera_optical_frame"
START_NS = 1_767_225_600_000_000_000  # 2026-01-01 00:00 UTC: any date, but always the same
PAUSE_S = 0.5  # between clips
FOCAL_LENGTH_WIDTHS = 0.9  # a guess (58 degrees across): nobody calibrated these cameras

_FOREVER = QosTime(9223372036, 854775807)
# What a camera driver offers. Reliable, so that both reliable and best-effort subscribers match.
_OFFERED = Qos(
    QosHistory.KEEP_LAST,
    5,
    QosReliability.RELIABLE,
    QosDurability.VOLATILE,
    _FOREVER,
    _FOREVER,
    QosLiveliness.AUTOMATIC,
    _FOREVER,
    False,
)


@dataclass(frozen=True)
class Clip:
    """Part of a video: frames first, first + step, ... before stop."""

    file: str
    first: int
    stop: int
    step: int
    rate_hz: float  # of the frames taken
    jpeg_quality: int


CLIPS = (
    Clip("cup.mp4", first=141, stop=217, step=1, rate_hz=26.777, jpeg_quality=80),
    Clip("box.mp4", first=187, stop=337, step=3, rate_hz=9.989, jpeg_quality=80),
    Clip("umi_cup.gif", first=30, stop=110, step=1, rate_hz=10.0, jpeg_quality=80),
)


def frames_bgr(path: Path, clip: Clip) -> Iterator[np.ndarray]:
    """Yield the clip's frames, uint8 [H, W, 3]."""
    wanted = range(clip.first, clip.stop, clip.step)
    with av.open(str(path)) as video:
        for index, frame in enumerate(video.decode(video=0)):
            if index in wanted:
                yield frame.to_ndarray(format="bgr24")


def make_bag(
    source: Path, output: Path, clips: Sequence[Clip] = CLIPS, start_ns: int = START_NS
) -> None:
    """Write the clips one after the other into a new rosbag2 folder."""
    store = typestore_for(*TYPES.values())
    types = store.types
    with BagWriter(output) as bag:
        for topic, name in TYPES.items():
            bag.add_topic(topic, name, [_OFFERED])
        clip_start_ns = start_ns
        for clip in clips:
            for number, image in enumerate(frames_bgr(source / clip.file, clip)):
                stamp_ns = clip_start_ns + round(number / clip.rate_hz * 1e9)
                stamp = types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
                header = types["std_msgs/msg/Header"](stamp, FRAME_ID)
                _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, clip.jpeg_quality])
                messages = {
                    IMAGE_TOPIC: types[IMAGE_TYPE](header, "bgr8; jpeg compressed bgr8", jpeg),
                    INFO_TOPIC: _camera_info(types, header, *image.shape[:2]),
                }
                for topic, message in messages.items():
                    cdr = bytes(store.serialize_cdr(message, TYPES[topic]))
                    bag.write(topic, TYPES[topic], stamp_ns, cdr)
            clip_start_ns = stamp_ns + round(PAUSE_S * 1e9)


def _camera_info(types: dict[str, type], header: object, height: int, width: int) -> object:
    focal_px = FOCAL_LENGTH_WIDTHS * width
    k = np.array([focal_px, 0, width / 2, 0, focal_px, height / 2, 0, 0, 1])
    p = np.insert(k, (3, 6, 9), 0.0)
    roi = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    distortion = np.zeros(5)
    return types[INFO_TYPE](
        header, height, width, "plumb_bob", distortion, k, np.eye(3).ravel(), p, 0, 0, roi
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder with the three clips")
    output = Path(__file__).parent / "bag"
    arguments = parser.parse_args()
    shutil.rmtree(output, ignore_errors=True)
    make_bag(arguments.source, output)
