"""What the node and its checking process say to each other, over a pair of pipes. No pickle.

A message is the length of a JSON header, the header, and blobs whose lengths it gives. ROS messages
travel serialised (CDR).
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from typing import IO, Any

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class About:
    """The part of a job that is no ROS message.

    Attributes:
        stamps_ns: of the images, rising.
        first, last: which images the prediction is about, and shows what came of it.
        image_type: e.g. "sensor_msgs/msg/Image".
        executed: the prediction knows of a contact that was executed.
        camera_static: the prediction takes the camera to stand still.
        topics: names for the recording, of "image", "executed" and "surprise".
        folder, limit_mb, threshold_nats: where to keep what is more surprising; "" = nowhere.
    """

    stamps_ns: list[int]
    first: int
    last: int
    image_type: str
    executed: bool
    camera_static: bool
    topics: dict[str, str]
    folder: str
    limit_mb: float
    threshold_nats: float


@dataclass(frozen=True)
class Job:
    """A prediction to be judged by the images that followed."""

    about: About
    prediction: bytes  # MotionDistribution of one candidate
    contact: bytes  # PokeArray; b"" = none
    images: list[bytes]


@dataclass(frozen=True)
class Outcome:
    """What became of a job: why it was not judged, or the two messages to publish.

    `problem` says why the images could not be kept although they should be.
    """

    reason: str = ""
    problem: str = ""
    kept: bool = False
    surprise: bytes = b""  # Surprise
    picture: bytes = b""  # Image


def send_job(stream: IO[bytes], job: Job) -> None:
    """Write a job. Raises OSError when nobody reads."""
    _send(stream, asdict(job.about), [job.prediction, job.contact, *job.images])


def receive_job(stream: IO[bytes]) -> Job | None:
    """Read a job; None at the end of the stream."""
    received = _receive(stream)
    if received is None:
        return None
    about, (prediction, contact, *images) = received
    return Job(About(**about), prediction, contact, images)


def send_outcome(stream: IO[bytes], outcome: Outcome) -> None:
    """Write an outcome."""
    header = {"reason": outcome.reason, "problem": outcome.problem, "kept": outcome.kept}
    _send(stream, header, [outcome.surprise, outcome.picture])


def receive_outcome(stream: IO[bytes]) -> Outcome | None:
    """Read an outcome; None at the end of the stream."""
    received = _receive(stream)
    if received is None:
        return None
    header, (surprise, picture) = received
    return Outcome(**header, surprise=surprise, picture=picture)


def _send(stream: IO[bytes], header: dict[str, Any], blobs: list[bytes]) -> None:
    text = json.dumps({"header": header, "sizes": [len(blob) for blob in blobs]}).encode()
    stream.write(_LENGTH.pack(len(text)) + text)
    for blob in blobs:
        stream.write(blob)
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[dict[str, Any], list[bytes]] | None:
    """Read a message; None where the stream ends, be it in the middle of one."""
    length = stream.read(_LENGTH.size)
    if len(length) < _LENGTH.size:
        return None
    text = stream.read(_LENGTH.unpack(length)[0])
    try:
        message = json.loads(text)
    except ValueError:  # cut short
        return None
    blobs = [stream.read(size) for size in message["sizes"]]
    if [len(blob) for blob in blobs] != message["sizes"]:
        return None
    return message["header"], blobs
