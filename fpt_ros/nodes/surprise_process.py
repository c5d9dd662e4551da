"""The process that judges predictions: tracks what moved, compares, keeps what is surprising.

It runs beside the predictor node at a low priority and has its own interpreter, since a thread
that is denied the processor while it holds the interpreter's lock would hold up the predictor too.
It ends when the node does. Started by `fpt_ros.nodes.surprise`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image

from fpt_ros import convert
from fpt_ros.core.errors import FptError, InvalidInputError
from fpt_ros.core.geometry import CropTransform
from fpt_ros.core.parts import MOVING
from fpt_ros.core.surprise import Surprise, judge, regional, worst_region
from fpt_ros.data import hard_cases
from fpt_ros.data.tracks import TRACK_SIDE_PX, PointTracker
from fpt_ros.data.tracks.change import is_cut, thumbnail
from fpt_ros.data.tracks.classical import ClassicalTracker
from fpt_ros.data.windows import STATIC_SHARE, centre_square, to_grey
from fpt_ros.images import image_to_rgb
from fpt_ros.msg import MotionDistribution
from fpt_ros.msg import Surprise as SurpriseMessage
from fpt_ros.nodes.surprise_job import Job, Outcome, receive_job, send_outcome

TRACKER_ERROR = 1 / TRACK_SIDE_PX
"""Standard deviation of the tracker along either axis, in sides of what it sees."""

_FEWEST_IMAGES = 4
_LONGEST_GAP = 0.3  # of the time from the first image to the last
_LEAST_TRACKED = 0.3  # share of the points
_MB = 1_000_000
# A tenth of a core where the predictor wants all of them; at 19 it would be a hundredth.
_NICENESS = 10


class NotJudged(FptError):
    """A prediction cannot be judged by these images; the message says why."""


def main() -> int:
    """Judge jobs from standard input until its end."""
    os.nice(_NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is meant for the node
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    outcomes = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the outcomes
    tracker = ClassicalTracker()
    while (job := receive_job(sys.stdin.buffer)) is not None:
        try:
            outcome = checked(job, tracker)
        except (NotJudged, InvalidInputError) as error:
            outcome = Outcome(reason=str(error))
        except Exception as error:  # whatever images come up with; the next ones may do better
            outcome = Outcome(reason=f"{type(error).__name__}: {error}")
        try:
            send_outcome(outcomes, outcome)
        except BrokenPipeError:
            return 0
    return 0


def checked(job: Job, tracker: PointTracker) -> Outcome:
    """Judge a job, and keep its images if they are surprising enough.

    Raises:
        NotJudged, InvalidInputError: the images will not do.
    """
    prediction: MotionDistribution = deserialize_message(job.prediction, MotionDistribution)
    transform = CropTransform(prediction.image_width, prediction.image_height, TRACK_SIDE_PX)
    points_px = convert.points_from_msg(prediction)
    displacement_px, tracked = measured_motion(job, transform, points_px, tracker)
    usable = tracked & (convert.flags_from_msg(prediction)[0] == 0)
    if not usable.any():
        raise NotJudged("the model predicted nothing for the points that could be followed")
    side_px = transform.roi[2]
    verdict = judge(
        convert.mixture_from_msg(prediction)[0],
        np.where(usable[:, None], displacement_px, np.nan),
        noise_px=TRACKER_ERROR * side_px,
    )
    n = round(len(points_px) ** 0.5)
    regions = regional(verdict.excess.reshape(n, n))
    length_px = np.linalg.norm(displacement_px, axis=-1)
    message = _message(job, prediction, verdict, worst_region(regions))
    message.num_tracked = int(usable.sum())
    message.num_moved = int((usable & (length_px > MOVING * side_px)).sum())
    problem = ""
    if job.about.folder and message.surprise >= job.about.threshold_nats:
        try:
            message.bag = str(_keep(job, message))
        except FptError as error:
            problem = f"surprising images were not kept: {error}"
    picture = convert.map_to_msg(_picture(regions, transform), prediction.header)
    return Outcome(
        problem=problem,
        kept=bool(message.bag),
        surprise=serialize_message(message),
        picture=serialize_message(picture),
    )


def measured_motion(
    job: Job, transform: CropTransform, points_px: NDArray[np.float32], tracker: PointTracker
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Where points went in the images, [N, 2] px, and which of that is believed, [N].

    Raises:
        NotJudged, InvalidInputError: the images will not do.
    """
    about = job.about
    span = slice(about.first, about.last + 1)
    seconds = 1e-9 * np.diff(np.array(about.stamps_ns[span], np.int64))
    if len(seconds) + 1 < _FEWEST_IMAGES or seconds.max() > _LONGEST_GAP * seconds.sum():
        raise NotJudged(
            f"too few images: {len(seconds) + 1} in {seconds.sum():.2f} s, "
            f"the longest gap {seconds.max(initial=0):.2f} s"
        )
    kind: Any = CompressedImage if about.image_type.endswith("CompressedImage") else Image
    views: list[NDArray[np.uint8]] = []
    before = None
    for cdr in job.images[span]:
        rgb = image_to_rgb(deserialize_message(cdr, kind))
        if rgb.shape[:2] != (transform.image_height_px, transform.image_width_px):
            raise NotJudged("the size of the images changed")
        views.append(centre_square(rgb))
        small = thumbnail(to_grey(views[-1]))
        if before is not None and is_cut(before, small):
            raise NotJudged("another scene began, or the camera jumped")
        before = small
    x, y, side_px = transform.roi
    scale = TRACK_SIDE_PX / side_px
    starts = ((points_px - np.array([x, y], np.float32)) * scale).astype(np.float32)
    tracks = tracker.track(np.stack(views), starts, [len(views) - 1])
    displacement_px, valid = (tracks.xy[0] - starts) / np.float32(scale), tracks.valid[0]
    if valid.mean() < _LEAST_TRACKED:
        raise NotJudged(f"only {valid.mean():.0%} of the points could be followed")
    still = np.linalg.norm(displacement_px[valid], axis=-1) <= MOVING * side_px
    if about.camera_static and still.mean() <= STATIC_SHARE:
        raise NotJudged("the camera moved, although camera_static is true")
    return displacement_px, valid


def _message(
    job: Job, prediction: MotionDistribution, verdict: Surprise, surprise: float
) -> SurpriseMessage:
    about = job.about
    elapsed_ns = about.stamps_ns[about.last] - about.stamps_ns[about.first]
    return SurpriseMessage(
        header=prediction.header,
        id=prediction.id if about.executed else "",
        executed=about.executed,
        elapsed=convert.duration(elapsed_ns * 1e-9),
        num_points=prediction.num_points,
        nll=float(np.nanmean(verdict.nll)),
        expected_nll=float(np.nanmean(verdict.expected_nll)),
        coverage_50=verdict.coverage(0.5),
        coverage_90=verdict.coverage(0.9),
        surprise=surprise,
        model_id=prediction.model_id,
    )


def _picture(regions: NDArray[np.float64], transform: CropTransform) -> NDArray[np.float32]:
    """Regions [n, n] over the image [H, W]; NaN where nothing is known."""
    x, y, side_px = transform.roi
    picture = np.full((transform.image_height_px, transform.image_width_px), np.nan, np.float32)
    cells = cv2.resize(
        regions.astype(np.float32), (side_px, side_px), interpolation=cv2.INTER_NEAREST
    )
    picture[y : y + side_px, x : x + side_px] = cells
    return picture


def _keep(job: Job, message: SurpriseMessage) -> Path:
    about = job.about
    start_ns, stop_ns = about.stamps_ns[about.first], about.stamps_ns[-1]
    messages = [
        (about.topics["image"], about.image_type, stamp_ns, cdr)
        for stamp_ns, cdr in zip(about.stamps_ns, job.images, strict=True)
    ]
    if job.contact:
        contact = about.topics["executed"], "fpt_ros/msg/PokeArray", start_ns, job.contact
        messages.insert(about.first + 1, contact)
    verdict = bytes(serialize_message(message))
    messages.append((about.topics["surprise"], "fpt_ros/msg/Surprise", stop_ns, verdict))
    return hard_cases.keep(Path(about.folder), round(about.limit_mb * _MB), start_ns, messages)


if __name__ == "__main__":
    sys.exit(main())
