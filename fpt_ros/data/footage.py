"""Footage from recordings, videos and folders of images: frames with times, as a stream.

Everything is read when it is asked for, so that a long recording needs no more memory than a short
one, and any stretch of it can be read alone. What cannot be used is counted, not raised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.typesys.store import Typestore

from fpt_ros.bag_files import is_storage_file
from fpt_ros.bags import BagError, BagReader, BagTopic, typestore_for
from fpt_ros.core.errors import FptError, InvalidInputError
from fpt_ros.data.frames import Footage, Frame, short_reason
from fpt_ros.data.videos import PICTURE_SUFFIXES, VIDEO_SUFFIXES, PictureFolder, VideoFile
from fpt_ros.images import image_to_rgb

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")

OWN_PICTURES = ("moving_part/mask", "moving_part/score", "overlay", "surprise/map", "uncertainty")
"""Topics with images that are published by our nodes, under their names."""

# Header stamps and times of recording may drift apart, but not by this much between two images.
MAX_STAMP_JUMP_S = 0.5

_COMPRESSED = "/compressed"
_MAX_OPEN_BAGS = 4
_MAX_DELAY_NS = 10**9  # between two recorders of one message


def find_sources(given: Sequence[Path]) -> list[Path]:
    """Bags, videos and folders of images in what is given, each once, by their whole paths.

    Raises:
        InvalidInputError: something given is not there.
    """
    return list(dict.fromkeys(place.resolve() for each in given for place in _places(each)))


@contextmanager
def open_footage(
    sources: Sequence[Path],
    topics: Sequence[str] = (),
    image_rate_hz: float = 10.0,
    scratch: Path | None = None,
    left_out: list[str] | None = None,
) -> Iterator[list[Footage]]:
    """All footage in bags, videos, and folders of bags, videos or images.

    Its frames are to be read one footage after the other: few bags are open at a time.

    Args:
        sources: rosbag2 folders or files, videos, folders of videos, folders of images.
        topics: image topics to use of the bags; none: see `camera_topics`.
        image_rate_hz: how fast images of a folder follow one another.
        scratch: where compressed bags are expanded; default: as for `tempfile`.
        left_out: is told what of the sources is not used, and why.

    Raises:
        InvalidInputError: nothing there, a topic is missing or holds no images.
        BagError: nothing can be read, and that is why.
        OSError: the machine, not what is read, is to blame; from the frames, too.
    """
    if not 0 < image_rate_hz < 1000:
        raise InvalidInputError(f"the image rate is {image_rate_hz} Hz; use 0 to 1000")
    places = find_sources(sources)
    with closing(_OpenBags(scratch)) as bags:
        found: list[Footage] = []
        held: dict[str, list[BagTopic]] = {}
        remarks: list[str] = []
        unreadable: dict[str, FptError] = {}
        for name, source in zip(_names(places), places, strict=True):
            with _if_readable(name, unreadable):
                if is_bag(source):
                    held[name] = bags.reader(source).topics
                    found += _bag_footage(name, source, bags, topics, remarks)
                elif source.is_dir():
                    found.append(PictureFolder(name, source, image_rate_hz))
                else:
                    found.append(VideoFile(name, source))
        if unreadable and not held and not found:
            raise next(iter(unreadable.values()))
        unused = [f"{name} is left out: {error}" for name, error in unreadable.items()]
        remarks += unused
        if topics and held:
            _check_topics(topics, [topic for there in held.values() for topic in there], unused)
        if left_out is not None:
            left_out += remarks
        if not found:
            raise InvalidInputError(
                "no images in "
                + ", ".join(str(source) for source in sources)
                + "".join(f"; {name} holds {_listed(there)}" for name, there in held.items())
                + "".join(f"; {remark}" for remark in remarks)
            )
        yield found


@contextmanager
def _if_readable(name: str, unreadable: dict[str, FptError]) -> Iterator[None]:
    try:
        yield
    except (BagError, InvalidInputError) as error:
        unreadable[name] = error


def camera_topics(topics: Sequence[BagTopic]) -> tuple[list[BagTopic], dict[str, str]]:
    """Those topics with images that are worth learning from, and the others, with the reason.

    Pictures made by our own nodes would teach a model what it thinks already. Of a camera recorded
    both raw and compressed, the topic with more images is taken, of equal ones the raw one.
    """
    cameras: list[BagTopic] = []
    others: dict[str, str] = {}
    images = [topic for topic in topics if topic.type_name in IMAGE_TYPES]
    counts = {topic.name: topic.message_count for topic in images}
    for topic in images:
        raw = topic.name.removesuffix(_COMPRESSED)
        twin = raw if raw != topic.name else raw + _COMPRESSED
        if raw.endswith(tuple(f"/{name}" for name in OWN_PICTURES)):
            others[topic.name] = "a picture that the predictor draws"
        elif (counts.get(twin, -1), twin == raw) > (topic.message_count, topic.name == raw):
            others[topic.name] = f"the images of {twin}"
        else:
            cameras.append(topic)
    return cameras, others


class _OpenBags:
    """Readers of bags. Those used last keep files open: of all that might be too many."""

    def __init__(self, scratch: Path | None) -> None:
        self._scratch = scratch
        self._readers: dict[Path, BagReader] = {}  # the one used last comes last

    def reader(self, path: Path) -> BagReader:
        reader = self._readers.pop(path, None) or BagReader(path, self._scratch)
        self._readers[path] = reader
        if len(self._readers) > _MAX_OPEN_BAGS:
            list(self._readers.values())[-1 - _MAX_OPEN_BAGS].close_idle_files()
        return reader

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()


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
    parts = [
        e
        for e in inside
        if e.exists()  # no dead links
        and (e.suffix.lower() in VIDEO_SUFFIXES or (e.is_dir() and is_bag(e)))
    ]
    if parts:
        return parts
    return [source] if any(e.suffix.lower() in PICTURE_SUFFIXES for e in inside) else []


def _names(sources: Sequence[Path]) -> list[str]:
    """A name for each source: the end of its path, as much of it as tells it from the others."""
    names = [source.name if source.is_dir() else _plain_stem(source) for source in sources]
    for depth in range(1, max((len(source.parts) for source in sources), default=0) + 1):
        count = Counter(names)
        names = [
            name if count[name] == 1 else "/".join(source.parts[-depth:])
            for name, source in zip(names, sources, strict=True)
        ]
    return names


def _plain_stem(file: Path) -> str:
    return Path(file.stem).stem if file.suffix == ".zstd" else file.stem


def _check_topics(wanted: Sequence[str], there: Sequence[BagTopic], unused: Sequence[str]) -> None:
    types: dict[str, str] = {topic.name: topic.type_name for topic in there}
    for name in wanted:
        if name not in types:
            raise InvalidInputError(
                "; ".join([f"no topic {name} in the bag; it holds {_listed(there)}", *unused])
            )
        if types[name] not in IMAGE_TYPES:
            raise InvalidInputError(
                f"topic {name} holds {types[name]}, not images; the bag holds {_listed(there)}"
            )


def _listed(topics: Sequence[BagTopic]) -> str:
    names = sorted({f"{topic.name} ({topic.type_name})" for topic in topics})
    return ", ".join(names) or "no topics"


def _bag_footage(
    name: str, source: Path, bags: _OpenBags, topics: Sequence[str], remarks: list[str]
) -> list[Footage]:
    there = bags.reader(source).topics
    if topics:
        cameras = [t for t in there if t.type_name in IMAGE_TYPES and t.name in topics]
    else:
        cameras, others = camera_topics(there)
        remarks += [
            f"{name}{topic} is left out: {what}. Name it among the topics to use it"
            for topic, what in others.items()
        ]
    types = Counter(topic.name for topic in cameras)
    return [
        BagFootage(
            name,
            topic.name
            + (f" ({topic.type_name.rpartition('/')[2]})" if types[topic.name] > 1 else ""),
            source,
            bags,
            topic,
        )
        for topic in cameras
    ]


class BagFootage:
    """An image topic of a bag. Blocks of time go by the time of recording, which never jumps."""

    def __init__(
        self, bag_name: str, camera: str, path: Path, bags: _OpenBags, topic: BagTopic
    ) -> None:
        reader = bags.reader(path)
        self.name = bag_name + camera
        self.start_ns: int | None = reader.start_ns
        self.duration_s = reader.duration_s
        self._bag_name = bag_name
        self._path = path
        self._bags = bags
        self._topic = topic
        self._types = typestore_for(topic.type_name)

    @property
    def damages(self) -> Sequence[str]:
        """See Footage."""
        return [f"{self._bag_name}: {damage}" for damage in self._bags.reader(self._path).damages]

    def frames(self, start_s: float, stop_s: float, skipped: Counter[str]) -> Iterator[Frame]:
        """See Footage."""
        reader = self._bags.reader(self._path)
        origin_ns = reader.start_ns
        start_ns, stop_ns = (origin_ns + round(t * 1e9) for t in (start_s, stop_s))
        messages = reader.messages({self._topic.name}, start_ns, stop_ns)
        damages = reader.damages
        before: tuple[int, int] | None = None
        while True:
            try:
                topic, logged_ns, cdr = next(messages)
            except StopIteration:
                if reader.damages != damages:
                    skipped["damaged part of the recording"] += 1
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
            time_s, recorded_s = ((t - origin_ns) * 1e-9 for t in before)
            yield Frame(time_s, recorded_s, follows, rgb)

    def messages(
        self, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[int, bytes]]:
        """Times of recording (ns) and contents. Raises BagError."""
        found = self._bags.reader(self._path).messages({self._topic.name}, start_ns, stop_ns)
        return ((time_ns, cdr) for _, time_ns, cdr in found)

    def last_image_s(self) -> float:
        """When the last image was recorded, from the beginning of the recording; 0: there is none.

        Raises BagError.
        """
        reader = self._bags.reader(self._path)
        stop_ns, length_ns = reader.end_ns, 10**9
        while stop_ns > reader.start_ns:  # longer and longer parts, from the end on
            start_ns = max(reader.start_ns, stop_ns - length_ns)
            if times := [time_ns for time_ns, _ in self.messages(start_ns, stop_ns)]:
                return (times[-1] - reader.start_ns) * 1e-9
            stop_ns, length_ns = start_ns, 4 * length_ns
        return 0.0


def repeated_until_s(later: Footage, earlier: Footage) -> float:
    """Until when later footage shows what earlier footage of the same camera has, s; else 0.

    They are of one camera if the first image of the later one is in the earlier one, recorded about
    then: two recorders get it at slightly different times. The same bytes tell it: images of
    cameras of one name, on two robots, are not the same. Times are from the beginning of the later.
    """
    if not isinstance(later, BagFootage) or not isinstance(earlier, BagFootage):
        return 0.0
    try:
        first = next(later.messages(), None)
        if first is None:
            return 0.0
        near = earlier.messages(first[0] - _MAX_DELAY_NS, first[0] + _MAX_DELAY_NS)
        if not any(cdr == first[1] for _, cdr in near):
            return 0.0
        apart_s = ((earlier.start_ns or 0) - (later.start_ns or 0)) * 1e-9
        return max(0.0, earlier.last_image_s() + apart_s)
    except BagError:
        return 0.0


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
