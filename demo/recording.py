"""What the demonstration recorded, read back from its bag."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from demo.asker import (
    DIAGNOSTICS,
    IMAGE,
    MAPS,
    MOTION,
    POKES,
    PREDICTOR,
    SERVICE_REPLY,
    WHAT_IF,
    WHAT_IF_MOTION,
)
from demo.script import Question
from fpt_ros.bags import BagReader
from fpt_ros.cli.play import message_class
from fpt_ros.convert import nanoseconds
from fpt_ros.images import image_to_rgb
from fpt_ros.msg import MotionDistribution


@dataclass(frozen=True)
class Answer:
    """A MotionDistribution and the time of its publication."""

    published_ns: int
    message: MotionDistribution

    @property
    def is_ok(self) -> bool:
        """Tell whether it holds distributions."""
        return self.message.status == MotionDistribution.OK

    @property
    def stamp_ns(self) -> int:
        """Stamp of the image."""
        return nanoseconds(self.message.header.stamp)

    @property
    def age_s(self) -> float:
        """Time from the image's stamp to the answer's publication."""
        return (self.published_ns - self.stamp_ns) * 1e-9


@dataclass
class Recording:
    """Messages of a demonstration, by image stamp (ns) or by the id of the question."""

    images: dict[int, CompressedImage] = field(default_factory=dict)
    motions: list[Answer] = field(default_factory=list)  # published on ~/motion
    answers: defaultdict[str, list[Answer]] = field(default_factory=lambda: defaultdict(list))
    asked_ns: dict[str, int] = field(default_factory=dict)
    maps: dict[str, dict[int, Image]] = field(default_factory=lambda: {topic: {} for topic in MAPS})
    diagnostics: dict[str, str] = field(default_factory=dict)  # the last ones of the predictor

    @classmethod
    def load(cls, path: Path) -> "Recording":
        """Read a bag that `demo.asker` wrote."""
        recording = cls()
        with BagReader(path) as bag:
            for topic, stamp_ns, cdr in bag.messages():
                message = deserialize_message(cdr, message_class(topic.type_name))
                recording._add(topic.name, stamp_ns, message)
        return recording

    def _add(self, topic: str, time_ns: int, message: Any) -> None:
        if topic == IMAGE:
            self.images[nanoseconds(message.header.stamp)] = message
        elif topic in self.maps:
            self.maps[topic][nanoseconds(message.header.stamp)] = message
        elif topic in (MOTION, WHAT_IF_MOTION, SERVICE_REPLY):
            answer = Answer(time_ns, message)
            self.answers[message.id].append(answer)
            if topic == MOTION:
                self.motions.append(answer)
        elif topic in (POKES, WHAT_IF):
            self.asked_ns[message.id] = time_ns
        elif topic == DIAGNOSTICS:
            for status in message.status:
                if status.name == PREDICTOR:
                    self.diagnostics = {entry.key: entry.value for entry in status.values}

    def refused(self, script: Sequence[Question]) -> list[str]:
        """Return the questions without a single good answer."""
        return [q.id for q in script if not any(answer.is_ok for answer in self.answers[q.id])]

    def rgb(self, stamp_ns: int) -> NDArray[np.uint8]:
        """Decode an image, uint8 [H, W, 3]."""
        return image_to_rgb(self.images[stamp_ns])

    def map(self, topic: str, stamp_ns: int) -> NDArray[np.float32] | NDArray[np.bool_]:
        """Return a map over an image, [H, W]: floats, or bools for the mask."""
        message = self.maps[topic][stamp_ns]
        shape = message.height, message.width
        if message.encoding == "mono8":
            return np.frombuffer(message.data, np.uint8).reshape(shape) > 0
        return np.frombuffer(message.data, np.float32).reshape(shape)
