"""The live check: against scenes whose motion is known, alone and over real topics."""

import dataclasses
import io
import math
import time
from collections import Counter, deque

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("fpt_ros.msg")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from fpt_ros import convert
from fpt_ros.bags import BagReader
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.geometry import CropTransform
from fpt_ros.data.footage import open_footage
from fpt_ros.data.hard_cases import kept
from fpt_ros.data.tracks.classical import ClassicalTracker
from fpt_ros.images import depth_to_metres
from fpt_ros.msg import MotionDistribution, Poke, PokeArray, Surprise
from fpt_ros.nodes import surprise
from fpt_ros.nodes.predictor_node import PredictorNode
from fpt_ros.nodes.surprise_job import (
    About,
    Job,
    Outcome,
    receive_job,
    receive_outcome,
    send_job,
    send_outcome,
)
from fpt_ros.nodes.surprise_process import NotJudged, checked
from fpt_ros.srv import PredictMotion

WIDTH, HEIGHT, SIDE = 256, 192, 192  # of the images, and of what the model sees of them
THING = 72  # px, side of what moves
START = np.array([60.0, 40.0])
VELOCITY = np.array([0.8, 0.4])  # px per frame
RATE_HZ = 24
GRID = 16
TRACKER_PX = SIDE / 448


def texture(seed, height, width):
    """Noise of several scales."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 128.0)
    for cell, strength in ((3, 60), (9, 30), (27, 40)):
        coarse = rng.normal(0, strength, (height // cell, width // cell, 3))
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return picture.clip(0, 255).astype(np.uint8)


GROUND, LOOK = texture(1, HEIGHT, WIDTH), texture(2, THING, THING)


def scene(t, ground=GROUND):
    """The image at frame t: a textured square in front of a textured ground."""
    pose = np.column_stack([np.eye(2), START + VELOCITY * t])
    size = (WIDTH, HEIGHT)
    mask = cv2.warpAffine(np.ones((THING, THING), np.float32), pose, size)[..., None]
    return (cv2.warpAffine(LOOK, pose, size) * mask + ground * (1 - mask)).astype(np.uint8)


def grid_points(n=GRID):
    return CropTransform(WIDTH, HEIGHT, 56).grid(n)


def true_motion(points, t, frames):
    """How far points of frame t move in so many frames, [N, 2]; and which of them are hidden."""
    corner = START + VELOCITY * t
    on_it = np.all((points >= corner) & (points < corner + THING), axis=-1)
    goal = corner + VELOCITY * frames
    hidden = np.all((points >= goal) & (points < goal + THING), axis=-1) & ~on_it
    return on_it[:, None] * VELOCITY * frames, hidden


def prediction(means, deviation_px=2.0):
    """One Gaussian for each grid point."""
    n = len(means)
    return MotionDistribution(
        header=Header(stamp=Time(sec=100)),
        image_width=WIDTH,
        image_height=HEIGHT,
        roi=RegionOfInterest(x_offset=32, width=SIDE, height=SIDE),
        num_candidates=1,
        num_points=n,
        num_components=1,
        points=grid_points(math.isqrt(n)).ravel().tolist(),
        weights=[1.0] * n,
        means=np.asarray(means, float).ravel().tolist(),
        covariances=[deviation_px**2, 0.0, deviation_px**2] * n,
        flags=[0] * n,
    )


def job(images=None, means=None, **changes):
    """A job about frame 0, and twelve frames after it."""
    images = [scene(t) for t in range(13)] if images is None else images
    if means is None:
        means = true_motion(grid_points(), 0, 12)[0]
    messages = [convert.map_to_msg(image, Header()) for image in images]
    about = About(
        stamps_ns=[100 * 10**9 + round(i * 1e9 / RATE_HZ) for i in range(len(images))],
        first=0,
        last=len(images) - 1,
        image_type="sensor_msgs/msg/Image",
        executed=False,
        camera_static=True,
        topics={"image": "/camera", "executed": "/executed", "surprise": "/surprise"},
        folder="",
        limit_mb=100.0,
        threshold_nats=10.0,
    )
    return Job(
        dataclasses.replace(about, **changes),
        serialize_message(prediction(means)),
        b"",
        [serialize_message(message) for message in messages],
    )


def verdict(the_job):
    outcome = checked(the_job, ClassicalTracker())
    assert outcome.reason == ""
    picture = deserialize_message(outcome.picture, Image)
    return outcome, deserialize_message(outcome.surprise, Surprise), picture


def test_a_true_prediction_is_no_surprise():
    _, message, picture = verdict(job())
    truth, _ = true_motion(grid_points(), 0, 12)
    assert message.num_points == GRID**2
    assert message.num_tracked > 0.7 * GRID**2
    assert 0.5 < message.num_moved / truth.any(-1).sum() <= 1
    variance = 2.0**2 + TRACKER_PX**2
    least = math.log(2 * math.pi * variance)  # at the mean of a Gaussian
    assert least - 1e-6 < message.nll < least + 0.2
    assert message.expected_nll == pytest.approx(1 + least, abs=0.05)
    assert message.coverage_90 >= message.coverage_50 > 0.9
    assert message.surprise < 0
    assert convert.nanoseconds(message.elapsed) == 500_000_000
    values = depth_to_metres(picture)  # a 32FC1 image
    assert values.shape == (HEIGHT, WIDTH)
    assert np.isnan(values[:, :32]).all()
    assert np.isnan(values[:, -32:]).all()
    assert np.nanmax(values) < 1


def test_what_moves_unexpectedly_is_found_where_it_is():
    _, message, picture = verdict(job(means=np.zeros((GRID**2, 2))))
    truth, _ = true_motion(grid_points(), 0, 12)
    variance = 2.0**2 + TRACKER_PX**2
    excess = np.square(truth).sum(-1).max() / (2 * variance) - 1
    assert message.surprise == pytest.approx(excess, rel=0.1)
    assert message.nll > message.expected_nll
    assert message.coverage_90 < 0.9
    values = depth_to_metres(picture)
    middle = (START + THING / 2).astype(int)
    assert values[middle[1], middle[0]] == pytest.approx(excess, rel=0.1)
    assert values[20, 200] == pytest.approx(-1, abs=0.3)


def test_surprising_images_are_kept_with_the_contact(tmp_path):
    contact = PokeArray(id="push", pokes=[Poke(x=90.0, y=80.0, dx=18.0, dy=9.0)])
    wrong = dataclasses.replace(
        job(means=np.zeros((GRID**2, 2)), folder=str(tmp_path), executed=True, first=1),
        contact=serialize_message(contact),
    )
    outcome, message, _ = verdict(wrong)
    assert outcome.kept
    assert [message.bag] == [str(path) for path in kept(tmp_path)]
    with BagReader(message.bag) as bag:
        recorded = [(topic.name, time_ns, cdr) for topic, time_ns, cdr in bag.messages()]
    with open_footage([tmp_path]) as footage:  # as fine-tuning does
        assert [len(list(each.frames(0, 9, Counter()))) for each in footage] == [13]
    pokes = [(time_ns, cdr) for name, time_ns, cdr in recorded if name == "/executed"]
    assert pokes[0][0] == wrong.about.stamps_ns[1]
    assert deserialize_message(pokes[0][1], PokeArray) == contact
    assert recorded[-1][0] == "/surprise"
    assert deserialize_message(recorded[-1][2], Surprise).surprise == message.surprise

    right = job(folder=str(tmp_path))
    outcome, message, _ = verdict(right)
    assert (outcome.kept, message.bag) == (False, "")

    full = dataclasses.replace(wrong, about=dataclasses.replace(wrong.about, limit_mb=1.0))
    outcome, message, _ = verdict(full)
    assert "more than" in outcome.problem
    assert (outcome.kept, message.bag) == (False, "")


def moving_camera():
    whole = texture(3, HEIGHT + 24, WIDTH + 24)
    return [scene(t, whole[t : t + HEIGHT, t : t + WIDTH]) for t in range(13)]


@pytest.mark.parametrize(
    ("images", "changes", "reason"),
    [
        ([scene(t) for t in range(3)], {}, "too few images: 3"),
        (
            [scene(t) for t in (0, 1, 2, 9, 10, 11)],
            {"stamps_ns": [int(t * 1e9) for t in (0, 1, 2, 9, 10, 11)]},
            r"the longest gap 7\.00 s",
        ),
        ([scene(t)[: HEIGHT - t // 6] for t in range(13)], {}, "the size of the images changed"),
        (
            [scene(t, GROUND if t < 6 else texture(9, HEIGHT, WIDTH)) for t in range(13)],
            {},
            "another scene began, or the camera jumped",
        ),
        (moving_camera(), {}, "the camera moved, although camera_static is true"),
    ],
)
def test_images_that_will_not_do_are_refused(images, changes, reason):
    with pytest.raises(NotJudged, match=reason):
        checked(job(images, **changes), ClassicalTracker())


def test_a_moving_camera_is_judged_where_it_may_move():
    _, message, _ = verdict(job(moving_camera(), camera_static=False))
    assert message.num_moved > 0.9 * message.num_tracked


def test_images_that_cannot_be_decoded_are_refused():
    broken = job()
    broken.images[5] = serialize_message(CompressedImage(format="jpeg", data=b"\xff\xd8 no jpeg"))
    about = dataclasses.replace(broken.about, image_type="sensor_msgs/msg/CompressedImage")
    with pytest.raises(InvalidInputError):
        checked(
            dataclasses.replace(broken, about=about, images=broken.images[5:6] * 13),
            ClassicalTracker(),
        )


def test_images_kept_are_thinned_out_evenly_to_what_memory_allows():
    images = deque()
    for number in range(200):
        images.append((number, CompressedImage(data=bytes(1000))))
        while number - images[0][0] > 60:
            images.popleft()
        surprise._thin(images, 20_000)
    assert len(images) == 20
    stamps = np.array([stamp for stamp, _ in images])
    assert stamps[-1] == 199
    assert stamps[0] <= 145
    assert np.diff(stamps).max() <= 6  # evenly: 3

    images = deque([(0, CompressedImage(data=bytes(1000)))])
    surprise._thin(images, 10)
    assert len(images) == 1


def test_jobs_and_outcomes_travel_and_cut_ones_are_none():
    sent = job()
    stream = io.BytesIO()
    send_job(stream, sent)
    stream.seek(0)
    assert receive_job(stream) == sent
    assert receive_job(stream) is None
    outcome = Outcome(problem="disk full", kept=True, surprise=b"abc", picture=b"\0" * 9)
    stream = io.BytesIO()
    send_outcome(stream, outcome)
    for length in range(len(stream.getvalue())):
        assert receive_outcome(io.BytesIO(stream.getvalue()[:length])) is None
    assert receive_outcome(io.BytesIO(stream.getvalue())) == outcome


def shown(frame):
    """The moment of the scene that the camera shows: it goes to and fro."""
    return 60 - abs(60 - frame % 120)


class Bench:
    """A node that checks itself, and a camera that shows the scene; time is that of the stamps."""

    def __init__(self, ros, checkpoint, **parameters):
        self.ros = ros
        namespace = next(ros.namespaces)
        self.tester = ros.node(namespace=namespace)
        values = {
            "checkpoint": str(checkpoint),
            "device": "cpu",
            "grid_size": GRID,
            "max_image_age_s": 0.0,
            "frame_history": 256,
            "surprise_period_s": 0.2,
            **parameters,
        }
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        self.node = ros.node(PredictorNode, namespace=namespace, parameter_overrides=overrides)
        self.image = self.tester.create_publisher(Image, "image", 10)
        self.executed = self.tester.create_publisher(PokeArray, "executed", 10)
        self.client = self.tester.create_client(PredictMotion, "predictor/predict_motion")
        self.surprises, self.pictures, self.diagnostics = [], [], []
        for kind, topic, heard in (
            (Surprise, "predictor/surprise", self.surprises),
            (Image, "predictor/surprise/map", self.pictures),
            (DiagnosticArray, "/diagnostics", self.diagnostics),
        ):
            self.tester.create_subscription(kind, topic, heard.append, 100)
        self.node.trigger_configure()
        self.node.trigger_activate()
        for publisher in (self.image, self.executed):
            ros.until(publisher.get_subscription_count)
        ros.until(lambda: self.tester.count_publishers(f"{namespace}/predictor/surprise/map"))
        self.frames = 0

    def stamp(self, frame):
        return divmod(10**18 + round(frame * 1e9 / RATE_HZ), 10**9)

    def show(self):
        """Show the next image of the scene."""
        sec, nanosec = self.stamp(self.frames)
        header = Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id="camera")
        self.image.publish(convert.map_to_msg(scene(shown(self.frames)), header))
        self.frames += 1
        return header

    def show_until(self, condition, seconds=90.0):
        """Show images until something has happened, but none while others are being judged."""
        end_s = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end_s, self.reports()
            judge = self.node._live_check._judge
            if judge is None or not judge.busy_s:
                self.show()
            for _ in range(3):
                self.ros.executor.spin_once(timeout_sec=0.01)

    def motion(self, message):
        """How far the grid's points really moved in the time that was judged."""
        start_ns = convert.nanoseconds(message.header.stamp) - 10**18
        elapsed_ns = convert.nanoseconds(message.elapsed)
        assert elapsed_ns == pytest.approx(5e8, rel=0.1)  # images get lost
        first, last = (shown(round(ns * RATE_HZ / 1e9)) for ns in (start_ns, start_ns + elapsed_ns))
        return true_motion(grid_points(), first, last - first)[0]

    def predicted(self, header, pokes=()):
        flat = [value for poke in pokes for value in poke]
        request = PredictMotion.Request()
        request.what_if.header = header
        request.what_if.poke_counts = [len(pokes)]
        request.what_if.poke_xy = [v for i, v in enumerate(flat) if i % 4 < 2]
        request.what_if.poke_dxdy = [v for i, v in enumerate(flat) if i % 4 >= 2]
        motion = self.ros.call(self.client, request).motion
        return (
            convert.mixture_from_msg(motion)[0] if motion.status == MotionDistribution.OK else None
        )

    def reports(self):
        statuses = [s for message in self.diagnostics for s in message.status]
        return {v.key: v.value for v in statuses[-1].values} if statuses else {}

    def close(self):
        self.node.trigger_deactivate()
        self.node.close()
        self.ros.remove(self.node)
        self.ros.remove(self.tester)


@pytest.fixture
def make_bench(ros, models):
    benches = []

    def make(**parameters):
        benches.append(Bench(ros, models / "one.safetensors", **parameters))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


def mean_nll(mixture, motion, noise_px):
    """Of a mixture widened by noise, by the definition of a normal density."""
    weights, means, covariances = (
        part.double().numpy() for part in (mixture.weights, mixture.means, mixture.covariances)
    )
    density = 0
    for k in range(weights.shape[-1]):
        xx, xy, yy = (covariances[:, k] + [noise_px**2, 0, noise_px**2]).T
        dx, dy = (motion - means[:, k]).T
        determinant = xx * yy - xy**2
        squared = (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / determinant
        density = density + weights[:, k] * np.exp(-squared / 2) / (
            2 * np.pi * np.sqrt(determinant)
        )
    return -np.log(density).mean()


def test_the_node_judges_itself(make_bench, tmp_path):
    folder = tmp_path / "hard"
    bench = make_bench(surprise_dir=str(folder), surprise_threshold_nats=-1000.0)
    bench.show_until(lambda: bench.surprises and bench.pictures)
    message = bench.surprises[0]
    assert (message.executed, message.id) == (False, "")
    expected = mean_nll(bench.predicted(message.header), bench.motion(message), TRACKER_PX)
    assert message.nll == pytest.approx(expected, abs=0.2)
    assert bench.pictures[0].header == message.header
    with BagReader(message.bag) as bag:
        assert {t.name: t.message_count for t in bag.topics}[bench.image.topic_name] >= 4

    # A contact that was executed: asked for by the stamp of the image that it began at.
    poke = (150.0, 90.0, 30.0, 20.0)
    header = bench.show()
    while bench.predicted(header) is None:  # a best-effort image may be lost
        header = bench.show()
    x, y, dx, dy = poke
    contact = PokeArray(header=header, id="push", pokes=[Poke(x=x, y=y, dx=dx, dy=dy)])
    bench.executed.publish(PokeArray(id="when?", pokes=contact.pokes))
    bench.executed.publish(contact)
    bench.show_until(lambda: [m for m in bench.surprises if m.executed])
    message = next(m for m in bench.surprises if m.executed)
    assert (message.id, message.header) == ("push", header)
    assert message.model_id
    expected = mean_nll(bench.predicted(header, [poke]), bench.motion(message), TRACKER_PX)
    assert message.nll == pytest.approx(expected, abs=0.2)
    with BagReader(message.bag) as bag:
        cdr = [cdr for topic, _, cdr in bag.messages() if topic.name.endswith("/executed")]
    assert deserialize_message(cdr[0], PokeArray) == contact

    # The checking process may die: another one takes over.
    judged = int(bench.reports()["live check: judged"])
    bench.node._live_check._judge.interrupt()
    bench.show_until(lambda: int(bench.reports()["live check: judged"]) > judged)
    assert int(bench.reports()["live check: not judged"]) >= 1

    # Switched off, nothing runs.
    process = bench.node._live_check._judge._process
    bench.node.set_parameters([Parameter("surprise_period_s", value=0.0)])
    bench.show_until(lambda: bench.node._live_check._judge is None)
    assert process.wait(30.0) != 0
