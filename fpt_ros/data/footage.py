"""Footage from recordings, videos and folders of images: frames with times, as a stream.

Everything is read when it is asked for, so that a long recording needs no more memory than a short
one, and any stretch of it can be read alone. What cannot be used is counted, not raised.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.typesys.store import Typestore

from fpt_ros.bag_files import is_storage_file
from fpt_ros.bags import BagError, BagReader, BagTopic, typestore_for
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.images import MAX_COMPRESSED_PIXELS, image_to_rgb

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
PICTURE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
VIDEO_SUFFIXES = {".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}

# Header stamps and times of recording may drift apart, but not by this much between two images.
MAX_STAMP_JUMP_S = 0.5


@dataclass(frozen=True)
class Frame:
    """One image.

    `time_s` is counted from the beginning of the recording. `follows` is False when time does not
    go on from the frame before: a stamp is missing or jumps.
    """

    time_s: float
    follows: bool
    rgb: NDArray[np.uint8]  # [H, W, 3]


class Footage(Protocol):
    """One camera's images of one recording.

    Footage with the same `recording` shows the same things at the same time; `name` tells its
    cameras apart. `duration_s` is the recording's.
    """

    recording: str
    name: str
    duration_s: float

    def frames(self, start_s: float, stop_s: float, skipped: Counter[str]) -> Iterator[Frame]:
        """Frames recorded in [start_s, stop_s); `skipped` counts the unusable ones by reason."""
        ...


@contextmanager
def open_footage(
    sources: Sequence[Path], topics: Sequence[str] = (), image_rate_hz: float = 10.0
) -> Iterator[list[Footage]]:
    """All footage in bags, videos, and folders of bags, videos or images.

    Args:
        sources: rosbag2 folders or files, videos, folders of videos, folders of images.
        topics: image topics to use of the bags; none: every topic with images.
        image_rate_hz: how fast images of a folder follow one another.

    Raises:
        InvalidInputError: nothing there, a topic is missing or holds no images.
        BagError: a bag cannot be read at all.
    """
    if not 0 < image_rate_hz < 1000:
        raise InvalidInputError(f"the image rate is {image_rate_hz} Hz; use 0 to 1000")
    with ExitStack() as stack:
        found: list[Footage] = []
        bags: list[tuple[Path, BagReader]] = []
        for source in [place for given in sources for place in _places(given)]:
            if is_bag(source):
                bags.append((source, stack.enter_context(BagReader(source))))
                found += _bag_footage(source, bags[-1][1], topics)
            elif source.is_dir():
                found.append(PictureFolder(source, image_rate_hz))
            else:
                found.append(VideoFile(source))
        if topics and bags:
            _check_topics(topics, [topic for _, bag in bags for topic in bag.topics])
        if not found:
            raise InvalidInputError(
                "no images in "
                + ", ".join(str(source) for source in sources)
                + "".join(f"; {path.name} holds {_listed(bag.topics)}" for path, bag in bags)
            )
        yield found


def is_bag(path: Path) -> bool:
    """Whether a path is a rosbag2 folder or one of its files."""
    if not path.is_dir():
        return is_storage_file(path)
    return (path / "metadata.yaml").is_file() or any(map(is_storage_file, path.iterdir()))


def _places(source: Path) -> list[Path]:
    """The source itself, or the bags and videos in a folder that is neither bag nor images."""
    if not source.exists():
        raise InvalidInputError(f"{source}: no such file or folder")
    if not source.is_dir() or is_bag(source):
        return [source]
    inside = sorted(source.iterdir())
    parts = [e for e in inside if e.suffix.lower() in VIDEO_SUFFIXES or (e.is_dir() and is_bag(e))]
    if parts:
        return parts
    return [source] if any(e.suffix.lower() in PICTURE_SUFFIXES for e in inside) else []


def _check_topics(wanted: Sequence[str], there: Sequence[BagTopic]) -> None:
    types: dict[str, str] = {topic.name: topic.type_name for topic in there}
    for name in wanted:
        if name not in types:
            raise InvalidInputError(f"no topic {name} in the bag; it holds {_listed(there)}")
        if types[name] not in IMAGE_TYPES:
            raise InvalidInputError(
                f"topic {name} holds {types[name]}, not images; the bag holds {_listed(there)}"
            )


def _listed(topics: Sequence[BagTopic]) -> str:
    names = sorted({f"{topic.name} ({topic.type_name})" for topic in topics})
    return ", ".join(names) or "no topics"


def _bag_footage(source: Path, reader: BagReader, topics: Sequence[str]) -> list[Footage]:
    return [
        BagFootage(source, reader, topic)
        for topic in reader.topics
        if topic.type_name in IMAGE_TYPES and (not topics or topic.name in topics)
    ]


class BagFootage:
    """An image topic of a bag. Blocks of time go by the time of recording, which never jumps."""

    def __init__(self, path: Path, reader: BagReader, topic: BagTopic) -> None:
        self.recording = path.stem
        self.name = f"{path.stem}{topic.name}"
        self.duration_s = reader.duration_s
        self._reader = reader
        self._topic = topic
        self._types = typestore_for(topic.type_name)

    def frames(self, start_s: float, stop_s: float, skipped: Counter[str]) -> Iterator[Frame]:
        """See Footage."""
        origin_ns = self._reader.start_ns
        start_ns, stop_ns = (origin_ns + round(t * 1e9) for t in (start_s, stop_s))
        messages = self._reader.messages({self._topic.name}, start_ns, stop_ns)
        before: tuple[int, int] | None = None
        while True:
            try:
                topic, logged_ns, cdr = next(messages)
            except StopIteration:
                return
            except BagError:
                skipped["rest of the recording damaged"] += 1
                return
            if topic.type_name != self._topic.type_name:
                continue
            try:
                rgb, stamp_ns = decoded_image(self._types, topic.type_name, cdr)
            except InvalidInputError as error:
                skipped[f"undecodable image ({short_reason(error)})"] += 1
                continue
            if stamp_ns == 0:
                skipped["image without a stamp (time of recording used)"] += 1
                stamp_ns = logged_ns
            follows = before is None or (
                stamp_ns > before[0]
                and abs((stamp_ns - before[0]) - (logged_ns - before[1])) < MAX_STAMP_JUMP_S * 1e9
            )
            if not follows:
                skipped["jump of the stamps (footage cut there)"] += 1
            before = stamp_ns, logged_ns
            yield Frame((stamp_ns - origin_ns) * 1e-9, follows, rgb)


def decoded_image(types: Typestore, type_name: str, cdr: bytes) -> tuple[NDArray[np.uint8], int]:
    """RGB [H, W, 3] and header stamp (ns; 0 = not set) of a serialised image.

    Raises:
        InvalidInputError: says why it cannot be decoded.
    """
    try:
        message: Any = types.deserialize_cdr(cdr, type_name)
        stamp = message.header.stamp
        return image_to_rgb(message), stamp.sec * 1_000_000_000 + stamp.nanosec
    except InvalidInputError:
        raise
    except Exception as error:  # the parser meets untrusted bytes and raises many types
        raise InvalidInputError(f"no message of its type: {error or type(error)}") from error


def short_reason(error: Exception) -> str:
    """The reason without its numbers, so that equal ones are counted together."""
    return re.sub(r"\d+", "N", str(error) or type(error).__name__)[:80]


class VideoFile:
    """A video that FFmpeg reads.

    Raises:
        InvalidInputError: it cannot be opened, or holds no pictures.
    """

    def __init__(self, path: Path) -> None:
        import av

        self.recording = self.name = path.stem
        self._path = path
        try:
            with av.open(str(path)) as video:
                stream = video.streams.video[0]
                times = [
                    float(packet.pts * stream.time_base)
                    for packet in video.demux(stream)
                    if packet.pts is not None and stream.time_base is not None
                ]
                rate = stream.average_rate or stream.guessed_rate
        except (av.FFmpegError, OSError, IndexError, ValueError) as error:
            raise InvalidInputError(f"{path} is no video that can be read: {error}") from error
        if not times:
            raise InvalidInputError(f"{path} holds no pictures")
        self._first_s = min(times)
        self.duration_s = max(times) - self._first_s + (1 / float(rate) if rate else 0.0)

    def frames(self, start_s: float, stop_s: float, skipped: Counter[str]) -> Iterator[Frame]:
        """See Footage."""
        import av

        with av.open(str(self._path)) as video:
            stream = video.streams.video[0]
            assert stream.time_base is not None
            if start_s > 1:
                try:
                    video.seek(round((start_s + self._first_s) / stream.time_base), stream=stream)
                except av.FFmpegError:  # some formats cannot: read from the beginning
                    video.seek(0)
            before_s = -np.inf
            for packet in video.demux(stream):
                try:
                    pictures = packet.decode()
                except av.FFmpegError:
                    skipped["undecodable picture"] += 1
                    continue
                for picture in pictures:
                    if picture.pts is None:
                        skipped["picture without a time"] += 1
                        continue
                    time_s = float(picture.pts * stream.time_base) - self._first_s
                    if time_s >= stop_s:
                        return
                    if time_s < start_s:
                        continue
                    if picture.width * picture.height > MAX_COMPRESSED_PIXELS:
                        skipped["picture too large"] += 1
                        continue
                    follows, before_s = time_s > before_s, time_s
                    yield Frame(time_s, follows, picture.to_ndarray(format="rgb24"))


class PictureFolder:
    """A folder of images in the order of the numbers in their names."""

    def __init__(self, path: Path, rate_hz: float) -> None:
        self.recording = self.name = path.name
        files = [file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES]
        self._files = sorted(files, key=_natural_order)
        self._rate_hz = rate_hz
        self.duration_s = len(files) / rate_hz

    def frames(self, start_s: float, stop_s: float, skipped: Counter[str]) -> Iterator[Frame]:
        """See Footage."""
        first, stop = (int(np.ceil(t * self._rate_hz - 1e-6)) for t in (start_s, stop_s))
        for number, file in enumerate(self._files[first:stop], first):
            try:
                bgr = cv2.imread(str(file), cv2.IMREAD_COLOR)
            except cv2.error:  # larger than OpenCV's own limit
                bgr = None
            if bgr is None:
                skipped["undecodable image"] += 1
                continue
            rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
            yield Frame(number / self._rate_hz, True, rgb)


def _natural_order(file: Path) -> list[tuple[bool, int, str]]:
    """Sort img2 before img10."""
    parts = re.split(r"(\d+)", file.name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
