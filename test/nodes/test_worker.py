import gc
import threading
import time
import weakref
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.nodes.jobs import Abandoned, Answer, Request, Status
from fpt_ros.nodes.worker import Worker
from fpt_ros.params import Settings

SECOND = 1_000_000_000


class Clock:
    def __init__(self, now_ns=1000 * SECOND):
        self.now_ns = now_ns

    def __call__(self):
        return self.now_ns


class FakePipeline:
    """Returns what it was given; waits at a gate on request; knows which thread called it."""

    def __init__(self, name="model"):
        self.name = name
        self.gate = threading.Event()
        self.gate.set()
        self.busy = threading.Event()
        self.encoded = []
        self.threads = {threading.current_thread().name}

    def _wait(self):
        self.threads.add(threading.current_thread().name)
        self.busy.set()
        assert self.gate.wait(10.0)

    def encode(self, image):
        self._wait()
        if image == "bad":
            raise InvalidInputError("step is wrong")
        if image == "poison":
            raise RuntimeError("out of memory")
        self.encoded.append(image)
        return f"{self.name}({image})"

    def answer(self, image, encoded, question):
        self._wait()
        if question == "bad":
            raise InvalidInputError("pokes[0] is NaN")
        if question == "poison":
            raise RuntimeError("index out of range")
        return (encoded, question)

    def follow(self, image, encoded, question):
        return self.answer(image, encoded, f"plan {question}")


class Replies(list):
    """Collects answers and waits for them."""

    def __init__(self):
        super().__init__()
        self._more = threading.Condition()

    def __call__(self, answer: Answer):
        with self._more:
            self.append(answer)
            self._more.notify_all()

    def wait(self, count):
        with self._more:
            assert self._more.wait_for(lambda: len(self) >= count, 10.0), f"only {list(self)}"
        return self


class Bench:
    def __init__(self, **changes):
        self.clock = Clock()
        self.problems = Replies()
        values = replace(Settings(), **{"max_image_age_s": 0.0, **changes})
        self.worker = Worker(values, self.clock, lambda *problem: self.problems(problem))
        self.pipeline = self.worker.install(FakePipeline).result(10.0)
        self.worker.resume()

    def image(self, image, stamp_ns=None):
        self.worker.put_image(image, self.clock() if stamp_ns is None else stamp_ns)

    def processed_image(self, image, stamp_ns=None):
        """Put an image and wait until the standing plan was answered on it."""
        replies = Replies()
        self.worker.set_plan(Request("-", replies), answer_now=False)
        self.image(image, stamp_ns)
        return replies.wait(1)[0]

    def ask(self, question="q", stamp_ns=0, max_wait_ns=None):
        replies = Replies()
        deadline_ns = None if max_wait_ns is None else self.clock() + max_wait_ns
        self.worker.submit(Request(question, replies, stamp_ns, deadline_ns))
        return replies

    def block(self):
        """Keep the worker busy until the gate opens; return the replies to come."""
        self.pipeline.gate.clear()
        self.pipeline.busy.clear()
        replies = self.ask("blocker")
        assert self.pipeline.busy.wait(10.0)
        return replies


@pytest.fixture
def make_bench():
    benches = []

    def make(**changes):
        benches.append(Bench(**changes))
        return benches[-1]

    yield make
    for bench in benches:
        bench.pipeline.gate.set()
        assert bench.worker.close(10.0)


def test_one_thread_creates_and_drives_the_pipeline(make_bench):
    bench = make_bench()
    bench.processed_image("a")
    assert bench.ask().wait(1)[0].result == ("model(a)", "q")
    assert bench.pipeline.threads == {"fpt_worker"}


def test_without_an_image_the_answer_says_so(make_bench):
    answer = make_bench().ask().wait(1)[0]
    assert answer.status is Status.NO_IMAGE
    assert "no image" in answer.text


def test_the_newest_image_wins_and_replaced_ones_are_counted(make_bench):
    bench = make_bench()
    bench.processed_image("first", 1)
    blocked = bench.block()
    for stamp_ns in range(2, 7):
        bench.image(f"image {stamp_ns}", stamp_ns)
    bench.pipeline.gate.set()
    blocked.wait(1)
    assert bench.ask().wait(1)[0].image == "image 6"
    assert bench.pipeline.encoded == ["first", "image 6"]
    statistics = bench.worker.statistics()
    assert statistics.images_received == 6
    assert statistics.images_replaced == 4
    assert statistics.images_processed == 2


def test_every_image_is_counted_once(make_bench):
    bench = make_bench(max_image_age_s=5.0)
    now_ns = bench.clock()
    bench.processed_image("first", now_ns)
    blocked = bench.block()
    for number in range(1, 4):
        bench.image(f"image {number}", now_ns + number)
    for number in (2, 3):  # one was replaced, the other has its turn after this
        bench.ask(stamp_ns=now_ns + number)
    bench.pipeline.gate.set()
    blocked.wait(1)
    for image, stamp_ns in (("poison", now_ns), ("old", now_ns - 6 * SECOND), ("last", now_ns)):
        bench.processed_image(image, stamp_ns)
    bench.image("bad", now_ns)  # does not answer the plan
    assert bench.problems.wait(2)[-1][0] == "image dropped"
    bench.ask().wait(1)
    found = bench.worker.statistics()
    assert found.images_received == 8
    assert (found.images_bad, found.images_failed, found.images_stale) == (1, 1, 1)
    assert (found.images_replaced, found.images_processed) == (2, 3)
    assert found.encodings == 4


def test_older_images_are_found_by_stamp_and_encoded_once(make_bench):
    bench = make_bench(frame_history=3)
    for stamp_ns in (1, 2, 3):
        bench.processed_image(f"image {stamp_ns}", stamp_ns)
    for stamp_ns in (1, 2, 3, 1):
        answer = bench.ask(stamp_ns=stamp_ns).wait(1)[0]
        assert answer.result == (f"model(image {stamp_ns})", "q")
    assert bench.pipeline.encoded == ["image 1", "image 2", "image 3"]
    bench.processed_image("image 4", 4)
    answer = bench.ask(stamp_ns=1).wait(1)[0]
    assert answer.status is Status.NO_IMAGE
    assert "0.000000001" in answer.text


def test_an_image_that_was_replaced_can_still_be_asked_about(make_bench):
    bench = make_bench()
    bench.processed_image("first", 1)
    blocked = bench.block()
    bench.image("skipped", 2)
    bench.image("newest", 3)
    bench.pipeline.gate.set()
    blocked.wait(1)
    assert bench.ask(stamp_ns=2).wait(1)[0].result == ("model(skipped)", "q")
    assert bench.ask().wait(1)[0].image == "newest"


def test_old_images_are_stale_for_requests_and_for_the_plan(make_bench):
    bench = make_bench(max_image_age_s=1.0)
    bench.processed_image("a")
    bench.clock.now_ns += 2 * SECOND
    answer = bench.ask().wait(1)[0]
    assert answer.status is Status.STALE_IMAGE
    assert answer.image == "a"
    assert "2.000 s" in answer.text
    answer = bench.processed_image("b", bench.clock() - 3 * SECOND)
    assert answer.status is Status.STALE_IMAGE
    assert bench.pipeline.encoded == ["a"]
    bench.worker.settings = replace(bench.worker.settings, max_image_age_s=0.0)
    assert bench.ask().wait(1)[0].status is Status.OK
    assert bench.worker.statistics().images_stale == 1


def test_images_without_a_stamp_have_no_age(make_bench):
    bench = make_bench(max_image_age_s=1.0)
    assert bench.processed_image("a", 0).status is Status.OK
    assert bench.ask().wait(1)[0].status is Status.OK


def test_the_standing_plan_is_answered_now_and_on_every_image(make_bench):
    bench = make_bench()
    plan = Replies()
    bench.worker.set_plan(Request("push", plan))
    assert plan.wait(1)[0].status is Status.NO_IMAGE
    bench.image("a")
    plan.wait(2)
    bench.image("b")
    plan.wait(3)
    assert [answer.result for answer in plan[1:]] == [
        ("model(a)", "plan push"),
        ("model(b)", "plan push"),
    ]
    other = Replies()
    bench.worker.set_plan(Request("pull", other))
    assert other.wait(1)[0].result == ("model(b)", "plan pull")
    bench.image("c")
    other.wait(2)
    assert len(plan) == 3


def test_a_plan_replaced_before_its_turn_is_told(make_bench):
    bench = make_bench()
    bench.processed_image("a")
    blocked = bench.block()
    first, second = Replies(), Replies()
    bench.worker.set_plan(Request("first", first))
    bench.worker.set_plan(Request("second", second))
    assert first.wait(1)[0].status is Status.OVER_CAPACITY
    bench.pipeline.gate.set()
    blocked.wait(1)
    assert second.wait(1)[0].status is Status.OK
    assert len(first) == 1


def test_a_bad_image_is_dropped_and_reported(make_bench):
    bench = make_bench()
    bench.processed_image("good", 1)
    bench.image("bad", 2)
    assert bench.problems.wait(1)[0] == ("image dropped", "step is wrong")
    assert bench.ask().wait(1)[0].image == "good"
    assert bench.ask(stamp_ns=2).wait(1)[0].status is Status.NO_IMAGE
    assert bench.worker.statistics().images_bad == 1
    assert bench.processed_image("good again").status is Status.OK


def test_a_failing_model_is_reported_and_the_worker_lives_on(make_bench):
    bench = make_bench()
    answer = bench.processed_image("poison")
    assert answer.status is Status.MODEL_ERROR
    assert "out of memory" in answer.text
    bench.processed_image("a")
    assert bench.ask("poison").wait(1)[0].status is Status.MODEL_ERROR
    bad = bench.ask("bad").wait(1)[0]
    assert (bad.status, bad.text) == (Status.BAD_REQUEST, "pokes[0] is NaN")
    assert bench.ask().wait(1)[0].status is Status.OK
    assert bench.worker.statistics().model_errors == 2


def test_a_reply_that_raises_does_not_end_the_thread(make_bench):
    bench = make_bench()
    bench.processed_image("a")

    def explode(answer):
        raise ValueError("defect")

    bench.worker.submit(Request("q", explode))
    assert bench.ask().wait(1)[0].status is Status.OK


def test_waiting_requests_are_told_when_their_deadline_passes(make_bench):
    bench = make_bench()
    bench.processed_image("a")
    blocked = bench.block()
    soon, later, never = bench.ask(max_wait_ns=5), bench.ask(max_wait_ns=50), bench.ask()
    bench.clock.now_ns += 10
    bench.worker.expire()
    assert [answer.status for answer in soon] == [Status.DEADLINE_MISSED]
    assert not later
    assert not never
    bench.clock.now_ns += 100
    bench.pipeline.gate.set()
    blocked.wait(1)
    assert later.wait(1)[0].status is Status.DEADLINE_MISSED
    assert never.wait(1)[0].status is Status.OK
    assert len(soon) == 1


def test_an_answer_that_took_too_long_is_not_given(make_bench):
    bench = make_bench()
    bench.processed_image("a")
    bench.pipeline.gate.clear()
    bench.pipeline.busy.clear()
    late = bench.ask(max_wait_ns=5)
    assert bench.pipeline.busy.wait(10.0)
    bench.clock.now_ns += 10
    bench.pipeline.gate.set()
    assert late.wait(1)[0].status is Status.DEADLINE_MISSED


def test_a_burst_is_answered_completely(make_bench):
    bench = make_bench(request_queue_size=10)
    bench.processed_image("a")
    blocked = bench.block()
    burst = [bench.ask(f"q{i}") for i in range(1000)]
    bench.pipeline.gate.set()
    blocked.wait(1)
    answers = [replies.wait(1)[0] for replies in burst]
    counts = Counter(answer.status for answer in answers)
    assert counts == {Status.OK: 10, Status.OVER_CAPACITY: 990}
    assert [a.result[1] for a in answers[:10]] == [f"q{i}" for i in range(10)]
    assert all(len(replies) == 1 for replies in burst)


def test_a_flood_of_requests_does_not_stop_the_images(make_bench):
    bench = make_bench(request_queue_size=10000)
    bench.processed_image("a")
    blocked = bench.block()
    burst = [bench.ask() for _ in range(3000)]
    bench.image("b")
    bench.pipeline.gate.set()
    blocked.wait(1)
    images = [replies.wait(1)[0].image for replies in burst]
    assert images[-1] == "b"  # seen between the requests, not after them


def test_a_flood_of_plans_does_not_stop_the_requests(make_bench):
    bench = make_bench()
    bench.processed_image("a")
    blocked = bench.block()
    replies = bench.ask()
    plans = Replies()

    def replan(answer):
        plans(answer)
        if not replies:
            bench.worker.set_plan(Request("again", replan))

    bench.worker.set_plan(Request("again", replan))
    bench.pipeline.gate.set()
    assert replies.wait(1)[0].status is Status.OK
    blocked.wait(1)
    assert len(plans) <= 3


def test_a_request_under_way_is_told_when_its_deadline_passes(make_bench):
    bench = make_bench()
    bench.processed_image("a")
    bench.pipeline.gate.clear()
    bench.pipeline.busy.clear()
    replies = bench.ask(max_wait_ns=SECOND)
    assert bench.pipeline.busy.wait(10.0)
    bench.clock.now_ns += 2 * SECOND
    bench.worker.expire()
    assert replies[0].status is Status.DEADLINE_MISSED
    with pytest.raises(Abandoned):
        bench.worker.check()
    bench.pipeline.gate.set()
    assert bench.ask().wait(1)[0].status is Status.OK  # the worker lives on
    assert len(replies) == 1
    bench.worker.check()


def test_a_request_under_way_is_told_when_the_worker_pauses(make_bench):
    bench = make_bench()
    bench.processed_image("a")
    replies = bench.block()
    bench.worker.pause()
    assert [answer.status for answer in replies] == [Status.NO_IMAGE]
    bench.worker.resume()
    bench.pipeline.gate.set()
    bench.processed_image("b")
    assert len(replies) == 1


def test_a_new_pipeline_serves_all_images_held(make_bench):
    bench = make_bench()
    bench.processed_image("a", 1)
    bench.processed_image("b", 2)
    bench.worker.install(lambda: FakePipeline("new")).result(10.0)
    assert bench.ask().wait(1)[0].result == ("new(b)", "q")
    assert bench.ask(stamp_ns=1).wait(1)[0].result == ("new(a)", "q")


def test_a_pipeline_that_cannot_be_made_leaves_the_old_one(make_bench):
    bench = make_bench()
    bench.processed_image("a")

    def fail():
        raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"):
        bench.worker.install(fail).result(10.0)
    assert bench.ask().wait(1)[0].result == ("model(a)", "q")


def test_old_model_can_be_freed_before_the_new_one_is_made(make_bench):
    bench = make_bench()
    bench.processed_image("one")
    old, bench.pipeline = weakref.ref(bench.pipeline), bench.pipeline.__class__()
    gone = []

    def make(error=None):
        bench.worker.release()
        gc.collect()
        gone.append(old() is None)
        if error:
            raise error
        return FakePipeline("new")

    with pytest.raises(MemoryError):
        bench.worker.install(lambda: make(MemoryError())).result(10.0)
    (answer,) = bench.ask().wait(1)
    assert (answer.status, answer.text) == (
        Status.MODEL_ERROR,
        "EngineError: no engine is left that works",
    )
    bench.worker.install(make).result(10.0)
    assert bench.ask().wait(1)[0].result == ("new(one)", "q")
    assert gone == [True, True]


def test_requests_wait_while_a_pipeline_is_made(make_bench):
    bench = make_bench()
    bench.processed_image("a")
    making, go_on = threading.Event(), threading.Event()

    def make():
        making.set()
        assert go_on.wait(10.0)
        return FakePipeline("new")

    future = bench.worker.install(make)
    assert making.wait(10.0)
    replies = bench.ask()
    go_on.set()
    future.result(10.0)
    assert replies.wait(1)[0].result == ("new(a)", "q")


def test_a_paused_worker_answers_at_once_and_forgets(make_bench):
    bench = make_bench()
    bench.processed_image("a")
    blocked = bench.block()
    waiting, plan = bench.ask(), Replies()
    bench.worker.set_plan(Request("push", plan))
    bench.worker.pause()
    assert waiting.wait(1)[0].status is Status.NO_IMAGE
    assert plan.wait(1)[0].status is Status.NO_IMAGE
    assert "not active" in bench.ask().wait(1)[0].text
    bench.worker.set_plan(Request("pull", plan))
    assert "not active" in plan.wait(2)[1].text
    bench.image("ignored")
    bench.pipeline.gate.set()
    blocked.wait(1)
    bench.worker.resume()
    assert bench.ask().wait(1)[0].status is Status.NO_IMAGE
    assert bench.processed_image("b").status is Status.OK


def test_close_does_not_wait_for_a_long_computation(make_bench):
    bench = make_bench()
    bench.processed_image("a")
    blocked, waiting = bench.block(), bench.ask()
    start_s = time.monotonic()
    assert not bench.worker.close(0.05)
    assert time.monotonic() - start_s < 5.0
    assert waiting.wait(1)[0].status is Status.NO_IMAGE
    assert bench.worker.install(FakePipeline).cancelled()
    bench.pipeline.gate.set()
    blocked.wait(1)
    assert bench.worker.close(10.0)


@pytest.mark.parametrize(("camera_hz", "limit_hz"), [(30.0, 10.0), (30.0, 20.0), (5.0, 10.0)])
def test_the_rate_limit_is_met_on_average(make_bench, camera_hz, limit_hz):
    bench = make_bench(max_rate_hz=limit_hz)
    count = 300
    for _ in range(count):
        bench.clock.now_ns += int(SECOND / camera_hz)
        bench.image("a")
    taken = count - bench.worker.statistics().images_skipped
    assert taken == pytest.approx(count * min(1.0, limit_hz / camera_hz), abs=2)


@pytest.mark.parametrize("limit_hz", [1e-3, 1e-300, 5e-324])
def test_a_rate_of_next_to_nothing_takes_next_to_no_images(make_bench, limit_hz):
    bench = make_bench(max_rate_hz=limit_hz)
    for _ in range(10):
        bench.clock.now_ns += SECOND
        bench.image("a")
    assert bench.worker.statistics().images_skipped >= 8


def test_the_rate_limit_survives_a_clock_that_jumps_back(make_bench):
    bench = make_bench(max_rate_hz=10.0)
    bench.image("a")
    bench.clock.now_ns -= 500 * SECOND
    bench.image("b")
    assert bench.worker.statistics().images_skipped == 0


steps = st.one_of(
    st.tuples(st.just("image"), st.sampled_from(["a", "b", "bad", "poison"])),
    st.tuples(st.just("ask"), st.sampled_from(["q", "bad", "poison"])),
    st.tuples(st.just("plan"), st.sampled_from(["push", "bad"])),
    st.tuples(st.just("stamp"), st.integers(1, 30)),
    st.tuples(st.just("wait"), st.integers(1, 3)),
    st.tuples(st.sampled_from(["pause", "resume", "expire", "swap"]), st.none()),
)


@settings(max_examples=60)
@given(st.lists(steps, max_size=40))
def test_whatever_happens_every_request_is_answered_once(script):
    bench = Bench(request_queue_size=3, frame_history=2, max_image_age_s=1e-8)
    bench.clock.now_ns = 1
    asked = []
    try:
        for action, value in script:
            if action == "image":
                bench.image(value)
            elif action == "ask":
                asked.append(bench.ask(value, max_wait_ns=4))
            elif action == "plan":
                asked.append(Replies())
                bench.worker.set_plan(Request(value, asked[-1]))
            elif action == "stamp":
                asked.append(bench.ask(stamp_ns=value))
            elif action == "wait":
                bench.clock.now_ns += value
            elif action == "swap":
                bench.worker.install(FakePipeline)
            else:
                getattr(bench.worker, action)()
    finally:
        assert bench.worker.close(10.0)
    assert all(len(replies) >= 1 for replies in asked)
    counted = sum(bench.worker.statistics().answers.values())
    assert counted == sum(map(len, asked))
