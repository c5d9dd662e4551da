"""The only bridge between ROS messages and the core: pure functions, both ways.

Large arrays go into messages as `array.array` made from bytes: a list or a NumPy array of the same
size takes rclpy a hundred times longer. Camera images are decoded in `fpt_ros.images`.
"""

import math
from array import array
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from builtin_interfaces.msg import Duration, Time
from numpy.typing import ArrayLike, NDArray
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField, RegionOfInterest
from std_msgs.msg import Header

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.mixture import GaussianMixture
from fpt_ros.core.motion import Motion
from fpt_ros.images import depth_to_metres
from fpt_ros.msg import MotionDistribution, PokeArray, WhatIf
from fpt_ros.params import Settings

CLOUD_FIELDS = ("x", "y", "z", "dx", "dy", "std", "score")


# ---- for planners: an answer as arrays ----------------------------------------------------------


def mixture_from_msg(message: MotionDistribution) -> GaussianMixture:
    """Return the displacements in px as one mixture, batch [C, N], float32.

    NaN where a point's flags are set. The points themselves: `points_from_msg`, `flags_from_msg`.

    Raises:
        InvalidInputError: the status is not OK (its text says why), or the arrays do not fit.
    """
    if message.status != MotionDistribution.OK:
        raise InvalidInputError(f"status {message.status}, not OK: {message.status_text}")
    shape = (message.num_candidates, message.num_points, message.num_components)
    weights = _floats(message, "weights", shape)
    means = _floats(message, "means", (*shape, 2))
    covariances = _floats(message, "covariances", (*shape, 3))
    unusable = flags_from_msg(message) != 0
    weights[unusable] = 1.0 / max(1, message.num_components)
    means[unusable] = 0.0
    covariances[unusable] = (1.0, 0.0, 1.0)
    mixture = GaussianMixture.from_covariances(weights, means, covariances)
    for part in (mixture.log_weights, mixture.means, mixture.scale_tril):
        part[torch.from_numpy(unusable)] = torch.nan
    return mixture


def points_from_msg(message: MotionDistribution) -> NDArray[np.float32]:
    """Return where the points are now, [N, 2] px. Raises InvalidInputError."""
    return _floats(message, "points", (message.num_points, 2))


def flags_from_msg(message: MotionDistribution) -> NDArray[np.uint8]:
    """Return bits of `core.motion.PointFlag`, 0 = usable: [C, N]. Raises InvalidInputError."""
    shape = (message.num_candidates, message.num_points)
    return _array_field(message, "flags", shape, np.uint8)


def _floats(message: Any, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return _array_field(message, name, shape, np.float32)


def _array_field(message: Any, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    values = np.array(getattr(message, name), dtype)  # a copy: messages may be read-only
    if values.size != np.prod(shape, dtype=np.int64):
        raise InvalidInputError(f"{name} must hold {list(shape)} numbers, got {values.size}")
    return values.reshape(shape)


# ---- requests -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of an image: C sets of pokes, and points that they share.

    Attributes:
        header: of the request.
        id: of the request.
        candidates: C arrays [P_i, 4] of x, y, dx, dy in px, finite.
        queries: [N, 2] px, finite; None = the node's grid.
    """

    header: Header
    id: str
    candidates: tuple[NDArray[np.float32], ...]
    queries: NDArray[np.float32] | None


def question_from_pokes(message: PokeArray, settings: Settings) -> Question:
    """Check a PokeArray against the limits in the settings.

    Raises:
        InvalidInputError: names the field, and the index in it.
    """
    _at_most(len(message.pokes), settings.max_pokes, "pokes", "max_pokes")
    rows = [(poke.x, poke.y, poke.dx, poke.dy) for poke in message.pokes]
    pokes = np.array(rows, np.float32).reshape(-1, 4)
    _finite(pokes, "pokes")
    queries = _queries(message.query_xy, 1, settings)
    return Question(message.header, message.id, (pokes,), queries)


def question_from_what_if(message: WhatIf, settings: Settings) -> Question:
    """Check a WhatIf against the limits in the settings.

    Raises:
        InvalidInputError: names the field, and the index in it.
    """
    counts = np.array(message.poke_counts, np.int64)
    if len(counts) == 0:
        raise InvalidInputError("poke_counts is empty; a what-if needs at least one candidate")
    _at_most(len(counts), settings.max_candidates, "poke_counts", "max_candidates")
    longest = int(np.argmax(counts))
    _at_most(int(counts[longest]), settings.max_pokes, f"candidate {longest}", "max_pokes")
    total = int(counts.sum())
    columns = []
    for name in ("poke_xy", "poke_dxdy"):
        values = np.array(getattr(message, name), np.float32)
        if len(values) != 2 * total:
            raise InvalidInputError(
                f"{name} must hold 2 x {total} numbers, as poke_counts add up to {total}; "
                f"it holds {len(values)}"
            )
        _finite(values, name)
        columns.append(values.reshape(-1, 2))
    pokes = np.concatenate(columns, axis=1)
    candidates = tuple(np.split(pokes, np.cumsum(counts)[:-1]))
    queries = _queries(message.query_xy, len(candidates), settings)
    return Question(message.header, message.id, candidates, queries)


def _queries(
    query_xy: ArrayLike, n_candidates: int, settings: Settings
) -> NDArray[np.float32] | None:
    flat = np.array(query_xy, np.float32)
    if len(flat) % 2:
        raise InvalidInputError(f"query_xy must hold pairs x, y; it holds {len(flat)} numbers")
    n_points = len(flat) // 2 or settings.grid_size**2
    name = f"{n_candidates} candidates x {n_points} points"
    _at_most(n_candidates * n_points, settings.max_distributions, name, "max_distributions")
    _finite(flat, "query_xy")
    return flat.reshape(-1, 2) if len(flat) else None


def _at_most(count: int, limit: int, name: str, parameter: str) -> None:
    if count > limit:
        raise InvalidInputError(f"{name}: {count} is more than {parameter} = {limit}")


def _finite(values: NDArray[np.float32], name: str) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        index = int(bad[0, 0])
        raise InvalidInputError(f"{name}[{index}] is not finite: {values[index].tolist()}")


# ---- answers ------------------------------------------------------------------------------------


def motion_to_msg(
    motion: Motion, header: Header, request_id: str, model_id: str, compute_s: float
) -> MotionDistribution:
    """Build the answer to a request; a motion of batch [N] is one candidate."""
    x, y, side = motion.transform.roi
    mixture = motion.mixture
    return MotionDistribution(
        header=header,
        id=request_id,
        status=MotionDistribution.OK,
        image_width=motion.transform.image_width_px,
        image_height=motion.transform.image_height_px,
        roi=RegionOfInterest(x_offset=x, y_offset=y, width=side, height=side),
        horizon=duration(motion.horizon_s),
        compute_time=duration(compute_s),
        num_candidates=1 if motion.flags.ndim == 1 else len(motion.flags),
        num_points=len(motion.points_px),
        num_components=mixture.n_components,
        points=_float_array(motion.points_px),
        weights=_float_array(mixture.weights),
        means=_float_array(mixture.means),
        covariances=_float_array(mixture.covariances),
        flags=array("B", motion.flags.tobytes()),
        model_id=model_id,
    )


def map_to_msg(values: NDArray[Any], header: Header) -> Image:
    """Build an Image from [H, W] floats (32FC1) or bools (mono8, 255 = true), or RGB uint8."""
    encoding, pixels = {
        "b": ("mono8", values * np.uint8(255)),
        "f": ("32FC1", values.astype(np.float32, copy=False)),
        "u": ("rgb8", values),
    }[values.dtype.kind]
    height, width = pixels.shape[:2]
    return Image(
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=pixels.nbytes // height,
        data=array("B", pixels.tobytes()),
    )


def cloud_to_msg(
    motion: Motion,
    score_nats: NDArray[np.float32],
    header: Header,
    camera: CameraInfo,
    depth: Image | None,
) -> PointCloud2:
    """Build a point cloud in the camera's optical frame from a motion of batch [N].

    Fields, all float32: x, y, z in m; dx, dy, std in px: mean and standard deviation of the
    displacement; score: nats. `camera` is used as `intrinsics` says. Without depth (registered to
    the image) the points lie on the plane at 1 m. Flagged points and points without depth are left
    out.

    Raises:
        InvalidInputError: camera or depth are not of the image's size, or are malformed.
    """
    width, height = motion.transform.image_width_px, motion.transform.image_height_px
    pinhole = intrinsics(camera)
    if (pinhole.width_px, pinhole.height_px) != (width, height):
        raise InvalidInputError(
            f"camera_info describes images of {pinhole.width_px} x {pinhole.height_px} px "
            f"({_described(camera)}), not of {width} x {height} px"
        )
    keep = motion.flags == 0
    points = motion.points_px
    z = np.ones(len(points), np.float32)
    if depth is not None:
        metres = depth_to_metres(depth)
        if metres.shape != (height, width):
            raise InvalidInputError(
                f"depth is {depth.width} x {depth.height} px, the image {width} x {height}"
            )
        column, row = np.where(keep[:, None], points, 0).astype(np.int64).T
        z = metres[np.minimum(row, height - 1), np.minimum(column, width - 1)]
        keep = keep & np.isfinite(z) & (z > 0)
    mixture = motion.mixture
    columns = [
        # A CameraInfo has the centre of the first pixel at (0, 0).
        (points[:, 0] - 0.5 - pinhole.cx_px) / pinhole.fx_px * z,
        (points[:, 1] - 0.5 - pinhole.cy_px) / pinhole.fy_px * z,
        z,
        *mixture.mean().numpy().T,
        mixture.std().numpy(),
        score_nats.reshape(-1),
    ]
    table = np.stack([column[keep] for column in columns], axis=1).astype(np.float32)
    return PointCloud2(
        header=header,
        height=1,
        width=len(table),
        fields=[
            PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
            for index, name in enumerate(CLOUD_FIELDS)
        ],
        is_bigendian=False,
        point_step=4 * len(CLOUD_FIELDS),
        row_step=table.nbytes,
        data=array("B", table.tobytes()),
        is_dense=True,
    )


class Intrinsics(NamedTuple):
    """A pinhole model of images as they are sent; the centre of the first pixel is (0, 0)."""

    width_px: int
    height_px: int
    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float


def intrinsics(camera: CameraInfo) -> Intrinsics:
    """Return the pinhole model of a camera's images, as image_geometry and depth_image_proc do.

    `p` describes rectified images, and raw ones of a lens without distortion, where it repeats `k`;
    `k` is used where a driver leaves `p` empty. Both are of the full resolution: the region of
    interest, in pixels of that, is cut out first and binned then.

    Raises:
        InvalidInputError: there is no focal length, as in a camera that is not calibrated.
    """
    matrix, columns = (camera.p, 4) if camera.p[0] else (camera.k, 3)
    fx, cx, fy, cy = (float(matrix[index]) for index in (0, 2, columns + 1, columns + 2))
    if not (0 < fx < math.inf and 0 < fy < math.inf and math.isfinite(cx) and math.isfinite(cy)):
        raise InvalidInputError(f"camera_info is not of a calibrated camera ({_described(camera)})")
    roi = camera.roi
    bin_x, bin_y = max(1, camera.binning_x), max(1, camera.binning_y)
    return Intrinsics(
        width_px=(roi.width or camera.width) // bin_x,
        height_px=(roi.height or camera.height) // bin_y,
        fx_px=fx / bin_x,
        fy_px=fy / bin_y,
        cx_px=(cx - roi.x_offset) / bin_x,
        cy_px=(cy - roi.y_offset) / bin_y,
    )


def _described(camera: CameraInfo) -> str:
    roi = camera.roi
    return (
        f"width {camera.width}, height {camera.height}, roi {roi.width} x {roi.height} at "
        f"({roi.x_offset}, {roi.y_offset}), binning {camera.binning_x} x {camera.binning_y}, "
        f"k {np.asarray(camera.k).tolist()}, p {np.asarray(camera.p).tolist()}"
    )


def _float_array(values: ArrayLike) -> "array[float]":
    return array("f", np.asarray(values, np.float32).tobytes())


# ---- time ---------------------------------------------------------------------------------------


def nanoseconds(time: Time | Duration) -> int:
    """Return a stamp or a duration in ns."""
    return int(time.sec) * 1_000_000_000 + int(time.nanosec)


def duration(seconds: float) -> Duration:
    """Build a Duration."""
    sec, nanosec = divmod(round(seconds * 1e9), 1_000_000_000)
    return Duration(sec=sec, nanosec=nanosec)
