"""What the worker works on: requests and their answers, images and their encodings. No ROS."""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol


class Status(IntEnum):
    """What became of a request; the numbers of `MotionDistribution.status`."""

    OK = 0
    NO_IMAGE = 1
    STALE_IMAGE = 2
    BAD_REQUEST = 3
    DEADLINE_MISSED = 4
    MODEL_ERROR = 5
    OVER_CAPACITY = 6


class Pipeline(Protocol):
    """What the worker drives. All calls come from the worker thread.

    `InvalidInputError` blames the image (encode) or the question (answer, follow); any other
    exception blames the model. Neither stops the worker.
    """

    def encode(self, image: Any) -> Any:
        """Decode one image and run the network's encoder on it."""

    def answer(self, image: Any, encoded: Any, question: Any) -> Any:
        """Answer one request on an encoded image."""

    def follow(self, image: Any, encoded: Any, question: Any) -> Any:
        """Answer the standing plan on an encoded image."""


class Abandoned(Exception):
    """Raised inside a computation that nobody waits for any more."""


@dataclass(eq=False)
class Frame:
    """One image as received, and its encoding once there is one."""

    image: Any
    stamp_ns: int  # 0 = the image carries no stamp
    encoded: Any = None


@dataclass(frozen=True)
class Answer:
    """What became of a request. `image` is the one that was used, None when there was none."""

    status: Status
    text: str = ""
    image: Any = None
    result: Any = None


@dataclass(frozen=True, eq=False)
class Request:
    """A question, and where its answer goes. Times are those of the worker's clock."""

    question: Any
    reply: Callable[[Answer], None]
    stamp_ns: int = 0  # of the image asked about; 0 = the newest
    deadline_ns: int | None = None


@dataclass
class Statistics:
    """Counts since the start, and the latest durations.

    An image received is one more of those replaced, skipped, stale, bad, processed or failed when
    it has lost its turn or had it.
    """

    images_received: int = 0
    images_replaced: int = 0  # by a newer one before their turn came
    images_skipped: int = 0  # to keep to the configured rate
    images_stale: int = 0
    images_bad: int = 0
    images_processed: int = 0
    images_failed: int = 0  # the model did
    encodings: int = 0  # also of replaced images that were asked about, and anew by another model
    model_errors: int = 0
    answers: Counter[Status] = field(default_factory=Counter)
    encode_s: deque[float] = field(default_factory=lambda: deque(maxlen=200))
    query_s: deque[float] = field(default_factory=lambda: deque(maxlen=200))
    age_s: deque[float] = field(default_factory=lambda: deque(maxlen=200))
    waiting: int = 0


class FrameHistory:
    """The newest images by stamp: some as received, and as many again that were encoded."""

    def __init__(self) -> None:
        self._received: OrderedDict[int, Frame] = OrderedDict()
        self._encoded: OrderedDict[int, Frame] = OrderedDict()

    def add(self, frame: Frame, size: int) -> None:
        """Keep an image that was just received."""
        _keep(self._received, frame, size)

    def promote(self, frame: Frame, size: int) -> None:
        """Keep an image longer because it was encoded."""
        self.discard(frame)
        _keep(self._encoded, frame, size)

    def find(self, stamp_ns: int) -> Frame | None:
        """Return the image with exactly this stamp."""
        return self._encoded.get(stamp_ns) or self._received.get(stamp_ns)

    def discard(self, frame: Frame) -> None:
        """Forget one image that was received."""
        if self._received.get(frame.stamp_ns) is frame:
            del self._received[frame.stamp_ns]

    def forget_encodings(self) -> None:
        """Keep the images, to be encoded anew when they are asked about."""
        for frame in self._encoded.values():
            frame.encoded = None

    def clear(self) -> None:
        """Forget all images."""
        self._received.clear()
        self._encoded.clear()


def _keep(frames: OrderedDict[int, Frame], frame: Frame, size: int) -> None:
    frames.pop(frame.stamp_ns, None)
    frames[frame.stamp_ns] = frame
    while len(frames) > size:
        frames.popitem(last=False)
