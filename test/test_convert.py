import copy
import math
from array import array
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

rclpy_messages = pytest.importorskip("fpt_ros.msg")

from builtin_interfaces.msg import Duration, Time  # noqa: E402
from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from sensor_msgs.msg import (  # noqa: E402
    CameraInfo,
    CompressedImage,
    Image,
    RegionOfInterest,
)
from std_msgs.msg import Header  # noqa: E402

from fpt_ros import convert  # noqa: E402
from fpt_ros.core.errors import InvalidInputError  # noqa: E402
from fpt_ros.core.geometry import CropTransform  # noqa: E402
from fpt_ros.core.mixture import GaussianMixture  # noqa: E402
from fpt_ros.core.motion import Motion, PointFlag  # noqa: E402
from fpt_ros.images import depth_to_metres, image_to_rgb  # noqa: E402
from fpt_ros.msg import MotionDistribution, Poke, PokeArray, WhatIf  # noqa: E402
from fpt_ros.nodes.jobs import Status  # noqa: E402
from fpt_ros.params import Settings  # noqa: E402

HEADER = Header(stamp=Time(sec=12, nanosec=345), frame_id="camera_optical")
LIMITS = Settings(max_pokes=4, max_candidates=5, max_distributions=100, grid_size=4)


def over_the_wire(message):
    return deserialize_message(serialize_message(message), type(message))


def random_mixture(shape, seed=0, n_components=4):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(n_components), shape)
    means = rng.normal(0, 20, (*shape, n_components, 2))
    root = rng.normal(0, 3, (*shape, n_components, 2, 2))
    cov = root @ root.swapaxes(-1, -2) + 0.1 * np.eye(2)
    packed = np.stack([cov[..., 0, 0], cov[..., 0, 1], cov[..., 1, 1]], -1)
    return GaussianMixture.from_covariances(weights, means, packed)


def random_motion(shape=(6,), seed=0, width=64, height=48):
    points = np.random.default_rng(seed).uniform(8, 48, (shape[-1], 2)).astype(np.float32)
    return Motion(
        points,
        random_mixture(shape, seed),
        np.zeros(shape, np.uint8),
        CropTransform(width, height, 32),
        0.75,
    )


# ---- answers ------------------------------------------------------------------------------------


def test_the_numbers_of_status_and_flags_are_those_of_the_message():
    for status in Status:
        assert getattr(MotionDistribution, status.name) == status
    for flag in PointFlag:
        assert getattr(MotionDistribution, flag.name) == flag


@settings(max_examples=20)
@given(
    shape=st.one_of(st.tuples(st.integers(1, 9)), st.tuples(st.integers(1, 4), st.integers(1, 9)))
)
def test_a_motion_survives_the_wire(shape):
    motion = random_motion(shape)
    message = over_the_wire(convert.motion_to_msg(motion, HEADER, "plan 7", "abc", 0.0125))
    assert (message.id, message.model_id, message.status) == ("plan 7", "abc", 0)
    assert message.header == HEADER
    assert (message.image_width, message.image_height) == (64, 48)
    assert (message.roi.x_offset, message.roi.y_offset) == (8, 0)
    assert (message.roi.width, message.roi.height) == (48, 48)
    assert message.horizon == Duration(sec=0, nanosec=750_000_000)
    assert message.compute_time == Duration(sec=0, nanosec=12_500_000)
    batch = (1, *shape)[-2:]
    mixture = convert.mixture_from_msg(message)
    assert mixture.batch_shape == batch
    expected = motion.mixture
    for name in ("weights", "means", "covariances"):
        value = getattr(mixture, name)
        assert value.dtype == torch.float32
        expected_value = getattr(expected, name).reshape(value.shape).float()
        torch.testing.assert_close(value, expected_value, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(convert.points_from_msg(message), motion.points_px)
    np.testing.assert_array_equal(convert.flags_from_msg(message), np.zeros(batch))


def test_the_layout_of_the_arrays_is_candidates_points_components():
    motion = random_motion((3, 5))
    message = convert.motion_to_msg(motion, HEADER, "", "", 0.0)
    c, n, k = 2, 4, 1
    at = (c * 5 + n) * 4 + k
    assert message.weights[at] == pytest.approx(float(motion.mixture.weights[c, n, k]))
    assert message.means[2 * at + 1] == pytest.approx(float(motion.mixture.means[c, n, k, 1]))
    xy = float(motion.mixture.covariances[c, n, k, 1])
    assert message.covariances[3 * at + 1] == pytest.approx(xy, rel=1e-4)
    assert message.points[2 * n] == motion.points_px[n, 0]
    for name in ("points", "weights", "means", "covariances", "flags"):
        assert isinstance(getattr(message, name), array)


def test_flagged_points_come_back_as_nan():
    motion = random_motion((2, 3))
    motion.flags[1, 2] = PointFlag.OUTSIDE_ROI
    motion.mixture.log_weights[1, 2] = torch.nan
    motion.mixture.means[1, 2] = torch.nan
    motion.mixture.scale_tril[1, 2] = torch.nan
    message = over_the_wire(convert.motion_to_msg(motion, HEADER, "", "", 0.0))
    assert np.isnan(message.means[-2:]).all()
    mixture = convert.mixture_from_msg(message)
    usable = torch.tensor([[True, True, True], [True, True, False]])
    assert torch.equal(mixture.mean().isfinite().all(-1), usable)
    assert torch.equal(mixture.std().isfinite(), usable)
    assert convert.flags_from_msg(message)[1, 2] == PointFlag.OUTSIDE_ROI


def test_nearly_degenerate_covariances_survive_single_precision():
    mixture = random_mixture((1,), n_components=1)
    thin = GaussianMixture(
        mixture.log_weights,
        mixture.means,
        torch.tensor([[[[1000.0, 0.0], [999.9, 1e-4]]]], dtype=torch.float64),
    )
    motion = Motion(
        np.zeros((1, 2), np.float32), thin, np.zeros(1, np.uint8), CropTransform(9, 9, 8), 0
    )
    message = over_the_wire(convert.motion_to_msg(motion, HEADER, "", "", 0.0))
    torch.testing.assert_close(convert.mixture_from_msg(message)[0].std(), thin.std().float())


def test_a_failed_answer_says_why():
    message = MotionDistribution(status=MotionDistribution.NO_IMAGE, status_text="no image yet")
    with pytest.raises(InvalidInputError, match="status 1, not OK: no image yet"):
        convert.mixture_from_msg(message)


def test_an_answer_whose_arrays_do_not_fit_is_refused():
    message = convert.motion_to_msg(random_motion(), HEADER, "", "", 0.0)
    message.means = message.means[:-1]
    with pytest.raises(InvalidInputError, match=r"means must hold \[1, 6, 4, 2\] numbers, got 47"):
        convert.mixture_from_msg(message)


def test_maps_become_images():
    rng = np.random.default_rng(0)
    floats = rng.normal(size=(5, 7)).astype(np.float32)
    floats[2, 3] = np.nan
    message = over_the_wire(convert.map_to_msg(floats, HEADER))
    assert (message.encoding, message.step, message.header) == ("32FC1", 28, HEADER)
    np.testing.assert_array_equal(depth_to_metres(message), floats)

    mask = rng.random((5, 7)) > 0.5
    message = over_the_wire(convert.map_to_msg(mask, HEADER))
    assert message.encoding == "mono8"
    np.testing.assert_array_equal(image_to_rgb(message)[..., 0], np.where(mask, 255, 0))

    rgb = rng.integers(0, 256, (5, 7, 3), np.uint8)
    message = over_the_wire(convert.map_to_msg(rgb, HEADER))
    assert (message.encoding, message.step) == ("rgb8", 21)
    np.testing.assert_array_equal(image_to_rgb(message), rgb)


def test_a_compressed_image_is_told_from_a_raw_one():
    with pytest.raises(InvalidInputError, match="neither JPEG nor PNG"):
        image_to_rgb(CompressedImage(format="jpeg", data=b"no"))


# ---- depth and points in space ------------------------------------------------------------------


def test_depth_units():
    millimetres = np.array([[0, 1500, 65535]], np.uint16)
    message = Image(height=1, width=3, step=6, encoding="16UC1", data=millimetres.tobytes())
    np.testing.assert_allclose(depth_to_metres(message), [[0, 1.5, 65.535]], rtol=1e-6)
    message = Image(
        height=1,
        width=3,
        step=6,
        encoding="16UC1",
        is_bigendian=1,
        data=millimetres.astype(">u2").tobytes(),
    )
    np.testing.assert_allclose(depth_to_metres(message), [[0, 1.5, 65.535]], rtol=1e-6)
    with pytest.raises(InvalidInputError, match="'rgb8' of depth"):
        depth_to_metres(Image(height=1, width=1, step=3, encoding="rgb8", data=bytes(3)))


def camera(width=64, height=48):
    k = [50.0, 0.0, 31.5, 0.0, 60.0, 23.5, 0.0, 0.0, 1.0]
    return CameraInfo(width=width, height=height, k=k)


def read_cloud(message):
    assert [field.name for field in message.fields] == list(convert.CLOUD_FIELDS)
    table = np.frombuffer(message.data, np.float32).reshape(message.width, -1)
    return dict(zip(convert.CLOUD_FIELDS, table.T, strict=True))


def test_a_cloud_with_depth_projects_back_to_its_pixels():
    motion = random_motion((6,))
    motion.flags[1] = PointFlag.OUTSIDE_IMAGE
    motion.points_px[1] = np.nan
    metres = np.random.default_rng(5).uniform(0.5, 3.0, (48, 64)).astype(np.float32)
    column, row = motion.points_px[4].astype(int)
    metres[row, column] = 0.0
    depth = convert.map_to_msg(metres, HEADER)
    score = np.arange(6, dtype=np.float32)
    cloud = read_cloud(over_the_wire(convert.cloud_to_msg(motion, score, HEADER, camera(), depth)))
    np.testing.assert_array_equal(cloud["score"], [0, 2, 3, 5])
    kept = motion.points_px[[0, 2, 3, 5]]
    homogeneous = np.array(camera().k).reshape(3, 3) @ np.stack(
        [cloud["x"], cloud["y"], cloud["z"]]
    )
    pixels = (homogeneous[:2] / homogeneous[2]).T + 0.5
    np.testing.assert_allclose(pixels, kept, atol=1e-4)
    np.testing.assert_array_equal(cloud["z"], [metres[int(y), int(x)] for x, y in kept])
    np.testing.assert_allclose(cloud["dx"], motion.mixture.mean()[[0, 2, 3, 5], 0], rtol=1e-6)
    np.testing.assert_allclose(cloud["std"], motion.mixture.std()[[0, 2, 3, 5]], rtol=1e-6)


def test_a_cloud_without_depth_lies_at_one_metre():
    cloud = convert.cloud_to_msg(random_motion(), np.zeros(6, np.float32), HEADER, camera(), None)
    np.testing.assert_array_equal(read_cloud(cloud)["z"], np.ones(6))
    assert cloud.row_step == len(cloud.data) == cloud.width * cloud.point_step


def test_a_cutout_and_binning_see_the_same_rays_as_the_full_image():
    full = camera(width=640, height=480)
    full.k = [500.0, 0.0, 330.0, 0.0, 510.0, 250.0, 0.0, 0.0, 1.0]
    ray = np.array([0.05, -0.02])  # x/z, y/z
    pixel = ray * [500, 510] + [330, 250]
    assert convert.intrinsics(full) == (640, 480, 500, 510, 330, 250)
    cut = copy.deepcopy(full)
    cut.roi = RegionOfInterest(x_offset=100, y_offset=60, width=402, height=300)
    cut.binning_x, cut.binning_y = 4, 2
    seen = convert.intrinsics(cut)
    assert (seen.width_px, seen.height_px) == (100, 150)
    where = (pixel - [100, 60]) / [4, 2]  # in the image sent
    np.testing.assert_allclose(ray * seen[2:4] + seen[4:], where)
    cut.binning_x = cut.binning_y = 1  # says the same as 0
    assert convert.intrinsics(cut) == (402, 300, 500, 510, 230, 190)


def test_rectified_images_are_described_by_p():
    info = camera(width=640, height=480)
    info.d = [-0.3, 0.1, 0.0, 0.0, 0.0]
    k_only = convert.intrinsics(info)
    # The other eye of a stereo pair: what is beside fx, cx, fy, cy shifts all rays alike.
    info.p = [400.0, 0.0, 300.0, -40.0, 0.0, 410.0, 220.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert convert.intrinsics(info) == (640, 480, 400, 410, 300, 220) != k_only
    for wrong in (-1.0, math.nan, math.inf):
        info.p[0] = wrong
        with pytest.raises(InvalidInputError, match="not of a calibrated camera"):
            convert.intrinsics(info)


def test_a_cloud_of_a_cutout_is_that_of_the_full_image():
    motion, score = random_motion(), np.zeros(6, np.float32)
    whole = read_cloud(convert.cloud_to_msg(motion, score, HEADER, camera(), None))
    larger = camera(width=200, height=148)  # of which the image is the part from (80, 40) on
    larger.k[2] += 80
    larger.k[5] += 40
    with pytest.raises(InvalidInputError, match="200 x 148 px"):
        convert.cloud_to_msg(motion, score, HEADER, larger, None)
    larger.roi = RegionOfInterest(x_offset=80, y_offset=40, width=64, height=48)
    part = read_cloud(convert.cloud_to_msg(motion, score, HEADER, larger, None))
    for axis in "xyz":
        np.testing.assert_allclose(part[axis], whole[axis], atol=1e-6)


def test_a_camera_or_depth_of_another_size_is_refused():
    motion, score = random_motion(), np.zeros(6, np.float32)
    with pytest.raises(InvalidInputError, match="camera_info"):
        convert.cloud_to_msg(motion, score, HEADER, camera(width=65), None)
    with pytest.raises(InvalidInputError, match="camera_info"):
        convert.cloud_to_msg(motion, score, HEADER, CameraInfo(width=64, height=48), None)
    depth = convert.map_to_msg(np.ones((24, 32), np.float32), HEADER)
    with pytest.raises(InvalidInputError, match="depth is 32 x 24 px"):
        convert.cloud_to_msg(motion, score, HEADER, camera(), depth)


# ---- requests -----------------------------------------------------------------------------------

finite = st.floats(-1e6, 1e6, width=32)


@settings(max_examples=50)
@given(
    pokes=nps.arrays(np.float32, st.tuples(st.integers(0, 4), st.just(4)), elements=finite),
    queries=nps.arrays(np.float32, st.tuples(st.integers(0, 9), st.just(2)), elements=finite),
)
def test_poke_arrays_are_read(pokes, queries):
    message = over_the_wire(
        PokeArray(
            header=HEADER,
            id="a",
            pokes=[
                Poke(**dict(zip(("x", "y", "dx", "dy"), map(float, p), strict=True))) for p in pokes
            ],
            query_xy=queries.reshape(-1).tolist(),
        )
    )
    question = convert.question_from_pokes(message, LIMITS)
    assert (question.id, question.header) == ("a", HEADER)
    assert len(question.candidates) == 1
    np.testing.assert_array_equal(question.candidates[0], pokes)
    if len(queries):
        np.testing.assert_array_equal(question.queries, queries)
    else:
        assert question.queries is None


@settings(max_examples=50)
@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    n_queries=st.integers(0, 9),
    seed=st.integers(0, 9),
)
def test_what_ifs_are_read(counts, n_queries, seed):
    rng = np.random.default_rng(seed)
    pokes = rng.normal(0, 100, (sum(counts), 4)).astype(np.float32)
    queries = rng.normal(0, 100, (n_queries, 2)).astype(np.float32)
    message = over_the_wire(
        WhatIf(
            id="b",
            poke_counts=counts,
            poke_xy=pokes[:, :2].reshape(-1).tolist(),
            poke_dxdy=pokes[:, 2:].reshape(-1).tolist(),
            query_xy=queries.reshape(-1).tolist(),
        )
    )
    question = convert.question_from_what_if(message, LIMITS)
    assert [len(candidate) for candidate in question.candidates] == counts
    np.testing.assert_array_equal(np.concatenate(question.candidates), pokes)


def pokes(*rows, query_xy=()):
    fields = ("x", "y", "dx", "dy")
    entries = [Poke(**dict(zip(fields, row, strict=True))) for row in rows]
    return PokeArray(pokes=entries, query_xy=list(query_xy))


NAN, INF = float("nan"), float("inf")
GOOD = (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (pokes(GOOD, (1.0, NAN, 0.0, 0.0)), r"pokes\[1\] is not finite: \[1.0, nan"),
        (pokes((1.0, 1.0, 0.0, -INF)), r"pokes\[0\] is not finite"),
        (pokes(*[GOOD] * 5), "pokes: 5 is more than max_pokes = 4"),
        (pokes(query_xy=[1.0, 2.0, 3.0]), "query_xy must hold pairs x, y; it holds 3"),
        (pokes(query_xy=[1.0, 2.0, 3.0, NAN]), r"query_xy\[3\] is not finite"),
        (pokes(query_xy=[0.0] * 202), "1 candidates x 101 points: 101 is more than max_distrib"),
        (WhatIf(), "poke_counts is empty"),
        (WhatIf(poke_counts=[0] * 6), "poke_counts: 6 is more than max_candidates = 5"),
        (WhatIf(poke_counts=[0, 5]), "candidate 1: 5 is more than max_pokes = 4"),
        (WhatIf(poke_counts=[2**32 - 1] * 2), "candidate 0: 4294967295 is more than max_pokes"),
        (WhatIf(poke_counts=[1], poke_xy=[1.0]), "poke_xy must hold 2 x 1 numbers.* holds 1"),
        (WhatIf(poke_counts=[0], poke_xy=[1.0, 1.0]), "poke_xy must hold 2 x 0 numbers"),
        (WhatIf(poke_counts=[1], poke_xy=[1.0, 1.0]), "poke_dxdy must hold 2 x 1 numbers"),
        (
            WhatIf(poke_counts=[1], poke_xy=[1.0, 1.0], poke_dxdy=[0.0, INF]),
            r"poke_dxdy\[1\] is not finite",
        ),
        (WhatIf(poke_counts=[0] * 5, query_xy=[0.0] * 42), "5 candidates x 21 points: 105 is more"),
    ],
)
def test_bad_requests_name_field_and_index(message, reason):
    read = (
        convert.question_from_pokes
        if isinstance(message, PokeArray)
        else convert.question_from_what_if
    )
    with pytest.raises(InvalidInputError, match=reason):
        read(message, LIMITS)


# ---- time ---------------------------------------------------------------------------------------


@given(st.integers(-(2**31), 2**31 - 1), st.integers(0, 10**9 - 1))
def test_times(sec, nanosec):
    assert convert.nanoseconds(SimpleNamespace(sec=sec, nanosec=nanosec)) == sec * 10**9 + nanosec


def test_durations():
    assert convert.duration(1.25) == Duration(sec=1, nanosec=250_000_000)
    assert convert.duration(0.9999999999) == Duration(sec=1, nanosec=0)
    assert convert.nanoseconds(convert.duration(0.1)) == 100_000_000
