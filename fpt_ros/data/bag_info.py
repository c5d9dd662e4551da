"""What a recording holds: `survey`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from fpt_ros.bags import BagError, BagReader, BagTopic, typestore_for
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.data.footage import IMAGE_TYPES, camera_topics, decoded_image
from fpt_ros.data.frames import short_reason

CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"
_GAP = 3.0  # times the usual interval


@dataclass
class TopicSurvey:
    """One topic as it was really read.

    Times are in seconds from the beginning of the recording. `remark` says of images what they are,
    or why they cannot be used.
    """

    name: str
    type_name: str
    claimed: int
    count: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    rate_hz: float = 0.0
    longest_gap_s: float = 0.0
    gaps: int = 0
    usable: bool = False
    remark: str = ""


@dataclass
class Survey:
    """A whole recording: `read` messages of those it claims to have; `warnings` for the user."""

    duration_s: float
    read: int
    topics: list[TopicSurvey]
    warnings: list[str] = field(default_factory=list)


def survey(reader: BagReader, decode: int = 3) -> Survey:
    """Read all times, and decode the first few images of every topic with images."""
    topics = {
        (t.name, t.type_name): TopicSurvey(t.name, t.type_name, t.message_count)
        for t in reader.topics
    }
    intervals_s: dict[tuple[str, str], _Intervals] = {key: _Intervals() for key in topics}
    images: dict[tuple[str, str], list[str]] = {key: [] for key in topics}
    warnings: list[str] = []
    for topic, time_ns, cdr in _until_damage(reader, warnings):
        key = topic.name, topic.type_name
        entry = topics[key]
        time_s = (time_ns - reader.start_ns) * 1e-9
        if entry.count:
            intervals_s[key].add(time_s - entry.last_s)
        else:
            entry.first_s = time_s
        entry.count, entry.last_s = entry.count + 1, time_s
        if topic.type_name in IMAGE_TYPES and len(images[key]) < decode:
            images[key].append(_look(topic, cdr, entry))
    calibrated = {entry.name.rpartition("/")[0] for entry in topics.values()
                  if entry.type_name == CAMERA_INFO_TYPE and entry.count}  # fmt: skip
    _, others = camera_topics(reader.topics)
    for key, entry in topics.items():
        intervals = intervals_s[key]
        entry.longest_gap_s = intervals.longest_s
        if entry.last_s > entry.first_s:
            entry.rate_hz = (entry.count - 1) / (entry.last_s - entry.first_s)
        entry.gaps = intervals.count_over(_GAP)
        if entry.type_name in IMAGE_TYPES:
            _conclude(entry, images[key], calibrated, others.get(entry.name, ""))
        if entry.count < entry.claimed:
            warnings.append(
                f"{entry.name}: {entry.claimed} messages are claimed and {entry.count} are there"
            )
        if entry.usable and entry.gaps:
            warnings.append(
                f"{entry.name}: {entry.gaps} gaps, the longest {entry.longest_gap_s:.2f} s"
            )
    return Survey(
        reader.duration_s, sum(e.count for e in topics.values()), list(topics.values()), warnings
    )


def _until_damage(reader: BagReader, warnings: list[str]) -> Iterator[tuple[BagTopic, int, bytes]]:
    try:
        yield from reader.messages()
    except BagError as error:
        warnings.append(f"only what comes before a damage is used: {error}")
    warnings[:0] = reader.damages  # some of them have shown while it was read


class _Intervals:
    """Times between messages, in as little memory for a long recording as for a short one."""

    _EDGES_S = np.geomspace(1e-4, 1e5, 361)

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._counts = np.zeros(len(self._EDGES_S) + 1, np.int64)

    def add(self, interval_s: float) -> None:
        self.longest_s = max(self.longest_s, interval_s)
        self._counts[np.searchsorted(self._EDGES_S, interval_s)] += 1

    def count_over(self, times: float) -> int:
        """How many are longer than `times` the median."""
        total = np.cumsum(self._counts)
        middle = int(np.searchsorted(total, total[-1] / 2))
        usual_s = self._EDGES_S[min(middle, len(self._EDGES_S) - 1)]
        return int(self._counts[np.searchsorted(self._EDGES_S, times * usual_s) + 1 :].sum())


def _look(topic: BagTopic, cdr: bytes, entry: TopicSurvey) -> str:
    """Decode an image; return what it is, or why it cannot be decoded."""
    try:
        rgb, stamp_ns = decoded_image(typestore_for(topic.type_name), topic.type_name, cdr)
    except InvalidInputError as error:
        return short_reason(error)
    entry.usable = True
    return f"{rgb.shape[1]} x {rgb.shape[0]} px" + ("" if stamp_ns else ", no stamps")


def _conclude(entry: TopicSurvey, seen: list[str], calibrated: set[str], other: str) -> None:
    if not entry.count:
        entry.remark = "no images"
        return
    entry.remark = "; ".join(dict.fromkeys(seen))
    if not entry.usable:
        entry.remark = f"unusable: {entry.remark}"
        return
    # camera/image_raw/compressed belongs to camera/camera_info, as camera/image_raw does.
    places = {entry.name.rsplit("/", depth)[0] for depth in (1, 2)}
    entry.remark += ", calibrated" if places & calibrated else ""
    entry.remark += f"; {other}: used only if named" if other else ""
