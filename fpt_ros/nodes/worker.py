"""One thread that computes, and what waits in front of it. Knows nothing of ROS.

The caller's threads only put things down: images into a slot where the newest wins, requests into a
bounded queue. The worker thread creates the pipeline (the model on its device), uses it and frees
it, so that a CUDA context never changes threads. Images and requests share its time equally: after
an image, requests may use as much time as the image took before the next image has its turn.

Every request is answered exactly once, by calling its `reply` on either the worker's or the
caller's thread; a standing plan is answered once per image. `reply` must not block.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from fpt_ros.core.errors import EngineError, InvalidInputError
from fpt_ros.nodes.jobs import (
    Abandoned,
    Answer,
    Frame,
    FrameHistory,
    Pipeline,
    Request,
    Statistics,
    Status,
)
from fpt_ros.params import Settings

PipelineT = TypeVar("PipelineT", bound=Pipeline | None)

_logger = logging.getLogger(__name__)

_LONGEST_NS = 1e18  # thirty years; between images at rates that are next to nothing


class Worker:
    """Runs a pipeline on a thread of its own; see the top of this file."""

    def __init__(
        self,
        settings: Settings,
        clock_ns: Callable[[], int],
        on_problem: Callable[[str, str], None],
    ) -> None:
        """Start the thread, idle until a pipeline is installed and `resume` is called.

        clock_ns: the time of stamps and deadlines. on_problem: told the kind and the text of what
        is wrong with an image or the model, on the worker thread; must not block.
        """
        self.settings = settings
        self._clock_ns = clock_ns
        self._on_problem = on_problem
        self._wake = threading.Condition()  # guards all that follows
        self._active = False
        self._closing = False
        self._makers: deque[tuple[Callable[[], Pipeline | None], Future[Any]]] = deque()
        self._newest_received: Frame | None = None  # the one-slot mailbox
        self._newest: Frame | None = None
        self._history = FrameHistory()
        self._requests: deque[Request] = deque()
        self._plan: Request | None = None
        self._plan_is_due = False
        self._plan_was_last = False  # of plans and requests, which take turns
        self._under_way: Request | None = None  # being computed, and not answered yet
        self._abandoned = False  # what is being computed was answered without a result
        self._request_credit_s = 0.0
        self._next_image_ns = 0
        self._statistics = Statistics()
        self._pipeline: Pipeline | None = None  # touched by the worker thread only
        self._thread = threading.Thread(target=self._run, name="fpt_worker", daemon=True)
        self._thread.start()

    # ---- the caller's side: never computes, never waits -----------------------------------------

    def install(self, make: Callable[[], PipelineT]) -> "Future[PipelineT]":
        """Replace the pipeline by `make()`, called on the worker thread between two jobs.

        If it raises, the future does too and the old pipeline stays. None frees the old pipeline;
        only for a paused worker. Images already held are encoded anew when they are needed.
        """
        future: Future[Any] = Future()
        with self._wake:
            if self._closing:
                future.cancel()
            else:
                self._makers.append((make, future))
                self._wake.notify()
        return future

    def release(self) -> None:
        """Free the pipeline, and what it made of images, to have the memory for another.

        Only from within a `make`. If that raises afterwards, questions are answered with
        MODEL_ERROR until there is another pipeline.
        """
        with self._wake:
            self._pipeline = None
            self._forget_encodings()

    def resume(self) -> None:
        """Take images and requests from now on."""
        with self._wake:
            self._active = True

    def pause(self) -> None:
        """Forget all images and the plan, and answer what waits with NO_IMAGE."""
        with self._wake:
            self._active = False
            waiting = list(self._requests)
            self._requests.clear()
            if self._plan is not None and self._plan_is_due:
                waiting.append(self._plan)
            waiting += self._abandon()
            self._newest_received = self._newest = self._plan = None
            self._plan_is_due = False
            self._history.clear()
        for request in waiting:
            self.reply(request, Answer(Status.NO_IMAGE, "the node was deactivated"))

    def close(self, timeout_s: float) -> bool:
        """End the thread; return False if it still computes after the time has passed."""
        self.pause()
        with self._wake:
            self._closing = True
            makers, self._makers = self._makers, deque()
            self._wake.notify()
        for _, future in makers:
            future.cancel()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def put_image(self, image: Any, stamp_ns: int) -> None:
        """Offer an image; it replaces one that still waits for its turn."""
        with self._wake:
            if not self._active:
                return
            self._statistics.images_received += 1
            frame = Frame(image, stamp_ns)
            self._history.add(frame, self.settings.frame_history)
            if self._too_soon():
                self._statistics.images_skipped += 1
                return
            if self._newest_received is not None:
                self._statistics.images_replaced += 1
            self._newest_received = frame
            self._wake.notify()

    def submit(self, request: Request) -> None:
        """Queue a request, or refuse it at once."""
        with self._wake:
            refusal = None
            if not self._active:
                refusal = _NOT_ACTIVE
            elif len(self._requests) >= self.settings.request_queue_size:
                refusal = Answer(
                    Status.OVER_CAPACITY,
                    f"{len(self._requests)} requests are waiting (request_queue_size)",
                )
            else:
                self._requests.append(request)
                self._wake.notify()
        if refusal is not None:
            self.reply(request, refusal)

    def set_plan(self, plan: Request, *, answer_now: bool = True) -> None:
        """Replace the standing plan.

        answer_now: answer it on the newest image at once; otherwise wait for the next image.
        """
        with self._wake:
            active, unanswered = self._active, self._plan if self._plan_is_due else None
            if active:
                self._plan, self._plan_is_due = plan, answer_now
                self._wake.notify()
        if not active:
            self.reply(plan, _NOT_ACTIVE)
        elif unanswered is not None:
            text = "replaced by a newer standing plan before its turn"
            self.reply(unanswered, Answer(Status.OVER_CAPACITY, text))

    def reply(self, request: Request, answer: Answer) -> None:
        """Answer a request that was not put down, and count it."""
        with self._wake:
            self._statistics.answers[answer.status] += 1
        request.reply(answer)

    def expire(self) -> None:
        """Answer the requests whose deadline has passed, also while the worker computes."""
        now_ns = self._clock_ns()
        with self._wake:
            late = [r for r in self._requests if _is_late(r, now_ns)]
            if late:
                self._requests = deque(r for r in self._requests if not _is_late(r, now_ns))
            if self._under_way is not None and _is_late(self._under_way, now_ns):
                late += self._abandon()
        for request in late:
            self.reply(request, _MISSED)

    def check(self) -> None:
        """Raise Abandoned if nobody waits for what is being computed; for the pipeline."""
        if self._abandoned:
            raise Abandoned

    def statistics(self) -> Statistics:
        """Return a copy of the counts."""
        with self._wake:
            now = self._statistics
            return replace(
                now,
                answers=Counter(now.answers),
                encode_s=deque(now.encode_s),
                query_s=deque(now.query_s),
                age_s=deque(now.age_s),
                waiting=len(self._requests),
            )

    def _too_soon(self) -> bool:
        if self.settings.max_rate_hz <= 0.0:
            return False
        period_ns = int(min(1e9 / self.settings.max_rate_hz, _LONGEST_NS))
        now_ns = self._clock_ns()
        if now_ns < self._next_image_ns <= now_ns + period_ns:  # else the clock has jumped
            return True
        # Counted from when this image was due, not from when it came: the mean rate is met even if
        # the camera's rate is not a multiple of it.
        due_ns = min(max(self._next_image_ns, now_ns - period_ns), now_ns)
        self._next_image_ns = due_ns + period_ns
        return False

    # ---- the worker thread ----------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                while (job := self._next_job()) is None and not self._closing:
                    self._wake.wait()
            if job is None:
                self._pipeline = None  # freed on the thread that made it
                return
            try:
                job()
            except Exception:  # a defect, but the thread must outlive it
                if not self._closing:  # at the end, what it needs may be gone
                    _logger.exception("the worker lives on after an unexpected error")

    def _next_job(self) -> Callable[[], None] | None:
        if self._closing:
            return None
        if self._makers:
            make, future = self._makers.popleft()
            return lambda: self._install(make, future)
        if not self._active:
            return None
        if self._newest_received and (not self._requests or self._request_credit_s <= 0.0):
            frame, self._newest_received = self._newest_received, None
            return lambda: self._process_image(frame)
        plan_is_next = not self._plan_was_last or not self._requests
        if self._plan_is_due and self._plan is not None and plan_is_next:
            plan, self._plan_is_due, self._plan_was_last = self._plan, False, True
            return lambda: self._process(plan, follow=True)
        if self._requests:
            request, self._plan_was_last = self._requests.popleft(), False
            return lambda: self._process(request, follow=False)
        return None

    def _install(self, make: Callable[[], Pipeline | None], future: "Future[Any]") -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            pipeline = make()
        except Exception as error:
            future.set_exception(error)
            return
        with self._wake:
            self._pipeline = pipeline
            self._forget_encodings()
        future.set_result(pipeline)

    def _forget_encodings(self) -> None:
        self._history.forget_encodings()
        if self._newest is not None:
            self._newest.encoded = None

    def _process_image(self, frame: Frame) -> None:
        start_s = time.perf_counter()
        failure = self._too_old(frame) or self._encode(frame)
        with self._wake:
            if failure is None:
                self._statistics.images_processed += 1
            elif failure.status is Status.STALE_IMAGE:
                self._statistics.images_stale += 1
            elif failure.status is Status.NO_IMAGE:
                self._statistics.images_bad += 1
            else:
                self._statistics.images_failed += 1
            if not self._active:
                return
            if failure is None:
                self._newest = frame
            # An image that cannot be read is as good as no image: the plan waits for the next one.
            usable = failure is None or failure.status is not Status.NO_IMAGE
            plan = self._plan if usable else None
            if usable:
                self._plan_is_due = False
        if plan is not None:
            self._settle(plan, lambda: failure or self._compute(frame, plan, follow=True))
        with self._wake:
            self._request_credit_s = time.perf_counter() - start_s
            if failure is None and frame.stamp_ns:
                self._statistics.age_s.append(self._age_s(frame))

    def _process(self, request: Request, *, follow: bool) -> None:
        start_s = time.perf_counter()
        try:
            self._settle(request, lambda: self._answer(request, follow=follow))
        finally:
            with self._wake:
                self._request_credit_s -= time.perf_counter() - start_s

    def _settle(self, request: Request, compute: Callable[[], Answer]) -> None:
        """Answer a request, unless another thread answers it while it is computed."""
        with self._wake:
            if active := self._active:
                self._under_way = request
        answer = compute() if active else _NOT_ACTIVE
        with self._wake:
            if answered := self._abandoned:
                self._abandoned = False
            self._under_way = None
        if not answered:
            self.reply(request, answer)

    def _abandon(self) -> list[Request]:
        """Take the request under way, if there is one, to answer it without a result; locked."""
        if self._under_way is None:
            return []
        request, self._under_way, self._abandoned = self._under_way, None, True
        return [request]

    def _answer(self, request: Request, *, follow: bool) -> Answer:
        if _is_late(request, self._clock_ns()):
            return _MISSED
        with self._wake:
            frame = self._history.find(request.stamp_ns) if request.stamp_ns else self._newest
        if frame is None:
            return Answer(
                Status.NO_IMAGE,
                f"no image with stamp {request.stamp_ns / 1e9:.9f} is held (frame_history); ask "
                "about the stamp of a recent image, or zero for the newest"
                if request.stamp_ns
                else "no image has been processed yet",
            )
        answer = (
            self._too_old(frame)
            or self._encode(frame)
            or self._compute(frame, request, follow=follow)
        )
        return _MISSED if _is_late(request, self._clock_ns()) else answer

    def _too_old(self, frame: Frame) -> Answer | None:
        age_s = self._age_s(frame)
        if not 0.0 < self.settings.max_image_age_s < age_s:
            return None
        return Answer(
            Status.STALE_IMAGE,
            f"the image is {age_s:.3f} s old, max_image_age_s is {self.settings.max_image_age_s:g}",
            frame.image,
        )

    def _encode(self, frame: Frame) -> Answer | None:
        """Make sure that a frame is encoded; return the answer to give if it cannot be."""
        if frame.encoded is not None:
            return None
        if self._pipeline is None:
            return self._model_failed(EngineError("no engine is left that works"), frame)
        start_s = time.perf_counter()
        try:
            frame.encoded = self._pipeline.encode(frame.image)
        except InvalidInputError as error:
            with self._wake:
                self._history.discard(frame)
            self._on_problem("image dropped", str(error))
            return Answer(Status.NO_IMAGE, f"the image cannot be used: {error}", frame.image)
        except Exception as error:
            return self._model_failed(error, frame)
        with self._wake:
            self._statistics.encodings += 1
            self._statistics.encode_s.append(time.perf_counter() - start_s)
            if self._active:
                self._history.promote(frame, self.settings.frame_history)
        return None

    def _compute(self, frame: Frame, request: Request, *, follow: bool) -> Answer:
        assert self._pipeline is not None
        compute = self._pipeline.follow if follow else self._pipeline.answer
        start_s = time.perf_counter()
        try:
            result = compute(frame.image, frame.encoded, request.question)
        except InvalidInputError as error:
            return Answer(Status.BAD_REQUEST, str(error), frame.image)
        except Abandoned:
            return _MISSED  # said already, or worse
        except Exception as error:
            return self._model_failed(error, frame)
        with self._wake:
            self._statistics.query_s.append(time.perf_counter() - start_s)
        return Answer(Status.OK, "", frame.image, result)

    def _model_failed(self, error: Exception, frame: Frame) -> Answer:
        text = f"{type(error).__name__}: {error}"
        with self._wake:
            self._statistics.model_errors += 1
        self._on_problem("the model failed", text)
        return Answer(Status.MODEL_ERROR, text, frame.image)

    def _age_s(self, frame: Frame) -> float:
        return (self._clock_ns() - frame.stamp_ns) / 1e9 if frame.stamp_ns else 0.0


_NOT_ACTIVE = Answer(Status.NO_IMAGE, "the node is not active")
_MISSED = Answer(Status.DEADLINE_MISSED, "the answer would have come after max_wait")


def _is_late(request: Request, now_ns: int) -> bool:
    return request.deadline_ns is not None and now_ns > request.deadline_ns
