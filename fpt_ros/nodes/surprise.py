"""The live check: what was predicted is judged by what moved, once the horizon has passed.

Every so often the newest image's prediction of what happens of itself is put aside; so is, for each
contact that somebody says was executed, the prediction for that contact. When the horizon is over,
the images since then go to a process of their own (`surprise_process`), and its verdict is
published.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from fpt_ros.convert import Question, nanoseconds, question_from_pokes
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.msg import PokeArray, Surprise
from fpt_ros.nodes.jobs import Answer, Request, Status
from fpt_ros.nodes.outbox import Outbox
from fpt_ros.nodes.surprise_job import About, Job, Outcome, receive_outcome, send_job
from fpt_ros.nodes.worker import Worker
from fpt_ros.params import Settings

SURPRISE = "surprise"
PICTURE = "surprise/map"

_TICK_S = 0.1
_IMAGES = 24  # per horizon: more make tracks no better
_IMAGE_BYTES = 256 << 20  # 40 raw images of 1920 x 1080
_BEFORE = 0.5  # horizons before the image judged that recordings reach back
_SLACK_S = 1.0  # in which a contact may be reported
_HORIZON_ERROR = 0.1
_PATIENCE_S = 10.0  # for images, beyond the horizon
_MAX_PENDING = 4
_MAX_JUDGING_S = 300.0

_CHECKER = ["-m", "fpt_ros.nodes.surprise_process"]


@dataclass(eq=False)
class _Check:
    """A prediction that waits for its horizon to pass."""

    contact: PokeArray | None
    begun_s: float
    answer: Answer | None = None


class LiveCheck:
    """See the top of this file. All methods are for the executor's thread."""

    def __init__(
        self,
        node: LifecycleNode,
        worker: Worker,
        outbox: Outbox,
        settings: Callable[[], Settings],
        horizon_ns: Callable[[], int],
        warn: Callable[[str, str], None],
    ) -> None:
        """Create the publishers. horizon_ns: of the model in use. warn: logs a kind and a text."""
        self._node = node
        self._worker = worker
        self._outbox = outbox
        self._settings = settings
        self._horizon_ns = horizon_ns
        self._warn = warn
        events = PublisherEventCallbacks(use_default_callbacks=False)
        self._outputs = {
            name: node.create_lifecycle_publisher(
                kind, f"~/{name}", QoSProfile(depth=10), event_callbacks=events
            )
            for name, kind in ((SURPRISE, Surprise), (PICTURE, Image))
        }
        self._subscription: Any = None
        self._timer: Any = None
        self._image_topic = ""
        self._judge: _Judge | None = None
        self._images: deque[tuple[int, Any]] = deque()  # by stamp
        self._pending: list[_Check] = []
        self._next_s = 0.0
        self._judged_stamp_ns = 0
        self._counts = {"judged": 0, "kept": 0, "not judged": 0}
        self._reason = ""  # why the latest one was not judged
        self._problems: list[str] = []

    def open(self, image_topic: str) -> None:
        """Subscribe, and check from now on if the parameters say so.

        image_topic: for recordings, the name of where the images come from.
        """
        self._image_topic = image_topic
        self._subscription = self._node.create_subscription(
            PokeArray, "executed", self._on_executed, QoSProfile(depth=10)
        )
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self._node.create_timer(_TICK_S, self._tick, clock=clock)

    def close(self) -> None:
        """Unsubscribe, forget what waits and end the checking process."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._node.destroy_subscription(self._subscription)
        self._timer = self._subscription = None
        self._end()

    def put_image(self, image: Any, stamp_ns: int) -> None:
        """Keep an image for as long as a check may need it."""
        horizon_ns = self._horizon_ns()
        if not self._settings().surprise_period_s or not horizon_ns or not stamp_ns:
            return
        if self._images and stamp_ns < self._images[-1][0]:
            self._forget("the stamps of the images jumped back")
        spacing_ns = 0.75 * horizon_ns / _IMAGES
        if not self._images or stamp_ns - self._images[-1][0] >= spacing_ns:
            self._images.append((stamp_ns, image))
        oldest_ns = stamp_ns - (1 + _BEFORE) * horizon_ns - _SLACK_S * 1e9
        while self._images[0][0] < oldest_ns:
            self._images.popleft()
        _thin(self._images, _IMAGE_BYTES)

    def values(self) -> dict[str, str]:
        """What /diagnostics has to say."""
        if not self._settings().surprise_period_s:
            return {}
        values = {f"live check: {name}": str(count) for name, count in self._counts.items()}
        return values | {"live check: last not judged because": self._reason}

    def complaints(self) -> list[str]:
        """What went wrong since the last call."""
        problems, self._problems = self._problems, []
        return problems

    # ---- predictions ----------------------------------------------------------------------------

    def _on_executed(self, message: PokeArray) -> None:
        settings = self._settings()
        if not settings.surprise_period_s:
            return
        stamp_ns = nanoseconds(message.header.stamp)
        try:
            if not stamp_ns:
                raise InvalidInputError("its header lacks the stamp of the image it began at")
            question = replace(question_from_pokes(message, settings), queries=None)
        except InvalidInputError as error:
            self._skip(f"executed contact {message.id!r}: {error}")
            return
        self._pending = [check for check in self._pending if check.contact is not None]
        if len(self._pending) >= _MAX_PENDING:
            self._skip(f"{_MAX_PENDING} executed contacts are waiting already")
        else:
            self._put_aside(message, question, stamp_ns)

    def _put_aside(self, contact: PokeArray | None, question: Question, stamp_ns: int) -> None:
        check = _Check(contact, time.monotonic())
        self._pending.append(check)

        def reply(answer: Answer) -> None:
            self._outbox.post(partial(self._on_prediction, check, answer))

        self._worker.submit(Request(question, reply, stamp_ns))

    def _on_prediction(self, check: _Check, answer: Answer) -> None:
        if check not in self._pending:
            return
        if answer.status is not Status.OK:
            self._pending.remove(check)
            contact = f"executed contact {check.contact.id!r}: " if check.contact else ""
            self._skip(contact + answer.text)
        elif check.contact is None and self._stamp_ns(answer) == self._judged_stamp_ns:
            self._pending.remove(check)  # there is no newer image
        else:
            check.answer = answer

    # ---- the horizon ----------------------------------------------------------------------------

    def _tick(self) -> None:
        settings, now_s = self._settings(), time.monotonic()
        if not settings.surprise_period_s:
            self._end()
            return
        if self._judge is None:
            self._judge = _Judge(self._outbox, self._on_outcome)
        if self._judge.busy_s > _MAX_JUDGING_S:
            self._judge.interrupt()
        self._pending = [check for check in self._pending if not self._is_settled(check)]
        if self._pending or self._judge.busy_s or now_s < self._next_s:
            return
        if not self._worker.statistics().images_processed:
            return
        self._next_s = now_s + settings.surprise_period_s
        if not self._horizon_ns():
            self._skip("the checkpoint does not say what its horizon is")
        elif not self._images:
            self._skip("the images carry no stamps")
        else:
            nothing = np.zeros((0, 4), np.float32)
            self._put_aside(None, Question(Header(), "", (nothing,), None), stamp_ns=0)

    def _is_settled(self, check: _Check) -> bool:
        """Tell whether a check has gone to the judge, or never will."""
        try:
            if check.answer is not None and self._hand_over(check, check.answer):
                return True
            waited_s = time.monotonic() - check.begun_s
            if waited_s > self._horizon_ns() * 1e-9 + _PATIENCE_S:
                raise InvalidInputError("no image came when the horizon had passed")
        except InvalidInputError as error:
            self._skip(str(error))
            return True
        return False

    def _hand_over(self, check: _Check, answer: Answer) -> bool:
        """Give a check to the judge if its horizon has passed.

        Raises:
            InvalidInputError: there are no images to judge it by.
        """
        assert self._judge is not None
        start_ns, horizon_ns = self._stamp_ns(answer), nanoseconds(answer.result.horizon)
        if not start_ns:
            raise InvalidInputError("the images carry no stamps")
        end_ns = start_ns + horizon_ns
        if not self._images or self._images[-1][0] < end_ns:
            return False
        others = [each for each in self._images if each[0] != start_ns]
        images = sorted([(start_ns, answer.image), *others], key=lambda each: each[0])
        stamps_ns = [stamp_ns for stamp_ns, _ in images]
        last = bisect_left(stamps_ns, end_ns)
        if stamps_ns[last] - end_ns > end_ns - stamps_ns[last - 1]:
            last -= 1
        if abs(stamps_ns[last] - end_ns) > _HORIZON_ERROR * horizon_ns:
            raise InvalidInputError("no image was taken near the end of the horizon")
        earliest = bisect_left(stamps_ns, start_ns - _BEFORE * horizon_ns)
        span = slice(earliest, last + 1)
        about = self._about(check, stamps_ns[span], stamps_ns.index(start_ns) - earliest)
        if check.contact is None:
            self._judged_stamp_ns = start_ns
        messages = [image for _, image in images[span]]
        self._judge.submit(partial(_job, about, answer.result, check.contact, messages))
        return True

    def _about(self, check: _Check, stamps_ns: list[int], first: int) -> About:
        settings = self._settings()
        compressed = settings.image_transport == "compressed"
        names = {"executed": "executed", "surprise": f"~/{SURPRISE}"}
        return About(
            stamps_ns=stamps_ns,
            first=first,
            last=len(stamps_ns) - 1,
            image_type=f"sensor_msgs/msg/{'CompressedImage' if compressed else 'Image'}",
            executed=check.contact is not None,
            camera_static=settings.camera_static,
            topics={key: self._node.resolve_topic_name(name) for key, name in names.items()}
            | {"image": self._image_topic},
            folder=os.path.expanduser(settings.surprise_dir),
            limit_mb=settings.surprise_dir_mb,
            threshold_nats=settings.surprise_threshold_nats,
        )

    def _on_outcome(self, outcome: Outcome) -> None:
        if self._timer is None:
            return
        if outcome.reason:
            self._skip(outcome.reason)
            return
        self._counts["judged"] += 1
        self._counts["kept"] += outcome.kept
        if outcome.problem:
            self._problems.append(outcome.problem)
            self._warn("live check", outcome.problem)
        self._outputs[SURPRISE].publish(outcome.surprise)
        self._outputs[PICTURE].publish(outcome.picture)

    def _skip(self, reason: str) -> None:
        self._counts["not judged"] += 1
        self._reason = reason
        self._warn("live check", f"not judged: {reason}")

    def _end(self) -> None:
        self._forget()
        if self._judge is not None:
            self._judge.close()
        self._judge = None

    def _forget(self, reason: str = "") -> None:
        self._images.clear()
        if self._pending and reason:
            self._skip(reason)
        self._pending.clear()

    @staticmethod
    def _stamp_ns(answer: Answer) -> int:
        return nanoseconds(answer.image.header.stamp)


def _thin(images: deque[tuple[int, Any]], limit_bytes: int) -> None:
    """Drop images where they are densest until the messages fit; the first and the last stay."""
    n_bytes = sum(len(image.data) for _, image in images)
    while n_bytes > limit_bytes and len(images) > 2:
        spans_ns = [images[i + 1][0] - images[i - 1][0] for i in range(1, len(images) - 1)]
        densest = 1 + min(range(len(spans_ns)), key=spans_ns.__getitem__)
        n_bytes -= len(images[densest][1].data)
        del images[densest]


def _job(about: About, prediction: Any, contact: PokeArray | None, images: list[Any]) -> Job:
    return Job(
        about,
        serialize_message(prediction),
        b"" if contact is None else serialize_message(contact),
        [serialize_message(image) for image in images],
    )


class _Judge:
    """The checking process, and a thread that waits for it. For the executor's thread."""

    def __init__(self, outbox: Outbox, deliver: Callable[[Outcome], None]) -> None:
        """Start the process. deliver: called once for every job."""
        self._outbox = outbox
        self._deliver = deliver
        self._jobs: SimpleQueue[Callable[[], Job] | None] = SimpleQueue()
        self._waiting = 0
        self._since_s = 0.0
        self._closing = False
        self._process = self._started()
        threading.Thread(target=self._run, name="fpt_live_check", daemon=True).start()

    @property
    def busy_s(self) -> float:
        """For how long it has been at its jobs; 0 = it has none."""
        return max(time.monotonic() - self._since_s, 1e-9) if self._waiting else 0.0

    def submit(self, make: Callable[[], Job]) -> None:
        """Queue a job, which is made on the thread."""
        if not self._waiting:
            self._since_s = time.monotonic()
        self._waiting += 1
        self._jobs.put(make)

    def interrupt(self) -> None:
        """End the process, and with it the job under way; another one takes over."""
        self._since_s = time.monotonic()
        self._process.kill()

    def close(self) -> None:
        """End process and thread; jobs are forgotten."""
        self._closing = True
        self._process.kill()
        self._jobs.put(None)

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *_CHECKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the node; the process ends when its input does
        )

    def _run(self) -> None:
        while (make := self._jobs.get()) is not None and not self._closing:
            try:
                outcome = self._asked(make())
            except Exception as error:
                outcome = Outcome(reason=f"{type(error).__name__}: {error}")
            self._outbox.post(partial(self._finish, outcome))
        self._process.kill()
        self._process.wait()

    def _finish(self, outcome: Outcome) -> None:
        self._waiting -= 1
        self._since_s = time.monotonic()
        if not self._closing:
            self._deliver(outcome)

    def _asked(self, job: Job) -> Outcome:
        if self._process.poll() is not None:
            self._process = self._started()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            send_job(process.stdin, job)
            outcome = receive_outcome(process.stdout)
        except BrokenPipeError:
            outcome = None
        if outcome is None:
            return Outcome(reason=f"the checking process ended, exit status {process.wait()}")
        return outcome
