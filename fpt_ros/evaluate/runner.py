"""Run a predictor and the baselines over test samples: one flat record per sample and method."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.mixture import GaussianMixture
from fpt_ros.core.parts import DEFAULT_CRITERION, MOVING
from fpt_ros.core.predictor import MotionPredictor
from fpt_ros.data.samples import (
    REPORT_SIDE_PX,
    BadSampleError,
    ShardIndex,
    ShardReader,
    cell_centres,
    choose_pokes,
)
from fpt_ros.evaluate import baselines, metrics

log = logging.getLogger(__name__)

MODEL = "model"


@dataclass(frozen=True)
class TestSample:
    """One view and one outcome, dense truth on a G x G grid in unit-square coordinates."""

    __test__ = False  # the name is the field's term; it is no pytest class

    key: str
    family: str
    scene: str
    image: np.ndarray  # uint8 [S, S, 3]
    flow: np.ndarray  # float32 [G, G, 2]
    valid: np.ndarray  # bool [G, G]: where the flow is known; other points are left out
    part: np.ndarray  # int16 [G, G]: which part a point is of; 0 = what never moves, or not known
    camera_static: bool


def load_samples(index: ShardIndex) -> Iterator[TestSample]:
    """Every outcome of every view; damaged ones are counted by the index and passed over."""
    reader = ShardReader()
    for view in index.views:
        for outcome in view.outcomes:
            try:
                motion = reader.motion(outcome, min_motion=0.0)
                image = reader.image(outcome)
            except BadSampleError as error:
                index.skipped["unreadable sample"] += 1
                log.warning("passed over: %s", error)
                continue
            yield TestSample(
                key=outcome.key,
                family=view.family,
                scene=str(view.scene_seed),  # of recordings: what was seen at the same time
                image=image,
                flow=motion.flow,
                valid=motion.valid,
                part=motion.part,
                camera_static=motion.camera_static,
            )


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured; kept with every number."""

    poke_counts: tuple[int, ...] = (0, 1, 2, 5, 10, 100)
    # Threshold of the moving-part score where it decides alone, in nats; also halved and doubled.
    threshold_nats: float = 1.0
    # So many joint samples are drawn at one poke (0: none), on at most so many points.
    joint_samples: int = 8
    joint_points: int = 48
    # What the model is compared with; names of evaluate.baselines.
    compare_with: tuple[str, ...] = tuple(baselines.BASELINES)
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate; raises InvalidInputError."""
        if not self.poke_counts or min(self.poke_counts) < 0:
            raise InvalidInputError(
                f"poke_counts must be one or more numbers from 0 on, got {self.poke_counts}"
            )


def _model_record(
    mixture: GaussianMixture,
    score: np.ndarray,
    truth: np.ndarray,
    moving: np.ndarray,
    settings: EvaluationSettings,
    generator: torch.Generator,
) -> dict[str, float]:
    """Measures that need a distribution. Mixture batch [N], unit-square coordinates."""
    target = torch.as_tensor(truth, dtype=mixture.means.dtype)
    nll = -mixture.log_prob(target).numpy()
    mean_error = metrics.endpoint_error_px(mixture.mean().numpy(), truth)
    sample = mixture.sample(1, generator=generator)[0].numpy()
    sample_error = metrics.endpoint_error_px(sample, truth)
    modes = metrics.mode_measures(mixture, target)
    std_px = REPORT_SIDE_PX * mixture.std().numpy()
    # A quarter of the points tells as much as all, and counting samples is the slowest measure.
    some = torch.randperm(len(truth), generator=generator)[: -(-len(truth) // 4)]
    mass = metrics.region_mass(mixture[some], target[some], generator)
    likely = mixture.prob_longer_than(MOVING).numpy() >= DEFAULT_CRITERION.least_probability
    # Chosen by what is predicted: of points chosen by what then happened, the best prediction there
    # is would not cover 90 %.
    mass_likely = mass[likely[some]] if likely[some].any() else np.array([np.nan])
    record = {
        "nll": float(nll.mean()),
        "nll_moving": float(nll[moving].mean()),
        "std_error_correlation": metrics.pearson(std_px, mean_error),
        "std_error_correlation_sample": metrics.pearson(std_px, sample_error),
        "std_error_correlation_top_mode": metrics.pearson(std_px, modes["top_mode_error_px"]),
        "coverage_50": _share_below(mass, 0.5),
        "coverage_90": _share_below(mass, 0.9),
        "coverage_50_likely": _share_below(mass_likely, 0.5),
        "coverage_90_likely": _share_below(mass_likely, 0.9),
    }
    record.update({name: float(values[moving].mean()) for name, values in modes.items()})
    for name, factor in (("iou_kl", 1.0), ("iou_kl_half", 0.5), ("iou_kl_double", 2.0)):
        mask = score > factor * settings.threshold_nats
        record[name] = metrics.intersection_over_union(mask, moving)
    # As `core.parts` makes masks, at the points that are known.
    mask = likely & (score > DEFAULT_CRITERION.threshold_nats)
    record["iou_mask"] = metrics.intersection_over_union(mask, moving)
    return record


def _share_below(values: np.ndarray, limit: float) -> float:
    """Share of values at or below the limit; NaN if any of them is NaN."""
    return float((values <= limit).mean()) if np.isfinite(values).all() else float("nan")


def _flow_record(flow: np.ndarray, truth: np.ndarray, moving: np.ndarray) -> dict[str, float]:
    """Measures that need only one predicted flow per point."""
    error = metrics.endpoint_error_px(flow, truth)
    predicted_moving = np.linalg.norm(flow, axis=-1) > MOVING
    record = {
        "epe_all_px": float(error.mean()),
        "epe_moving_px": float(error[moving].mean()),
        "iou_flow": metrics.intersection_over_union(predicted_moving, moving),
    }
    for threshold_px in metrics.PCK_THRESHOLDS_PX:
        record[f"pck_{threshold_px:g}px"] = float((error[moving] < threshold_px).mean())
    return record


def _points_of_poked_part(sample: TestSample, moving: np.ndarray, poked: int) -> np.ndarray:
    """Indices, among the N known points, of those that move and are of the poked point's part.

    None where the parts are not known, under a moving camera, which moves all the rest as well, and
    where they are too few to tell whether they move as one body.
    """
    part = sample.part[sample.valid]
    points = np.flatnonzero(moving & (part == part[poked]))
    told = sample.camera_static and part[poked] and len(points) >= metrics.FEWEST_RIGID_POINTS
    return points if told else points[:0]


def _joint_record(
    predictor: MotionPredictor,
    poke_px: np.ndarray,
    points_px: np.ndarray,
    truth_px: np.ndarray,
    scale: float,
    n_samples: int,
    generator: torch.Generator,
) -> dict[str, float]:
    """Measures of joint samples at [N, 2] points of one part, for a camera that stands still.

    scale: px of the report in one px of the picture.
    """
    flows = np.asarray(
        predictor.sample_jointly(
            poke_px, points_px, n_samples, generator=generator, camera_static=True
        )
    )
    error_px = scale * np.linalg.norm(flows - truth_px, axis=-1).mean(axis=-1)
    return {
        "joint_mean_epe_px": float(error_px.mean()),
        "joint_best_epe_px": float(error_px.min()),
        "joint_rank5_residual": metrics.rank5_residual(flows),
    }


def evaluate(
    predictor: MotionPredictor, samples: Iterable[TestSample], settings: EvaluationSettings
) -> Iterator[dict[str, Any]]:
    """Yield one record per sample, poke count and method (the model and every baseline).

    Samples in which nothing moves are passed over. Moving-part scores of samples with a moving
    camera are NaN: there the whole picture moves. Joint samples, which are slow, are drawn for the
    first sample of each scene that has enough points of the poked part.
    """
    drawn_jointly = set()
    for sample in samples:
        size_px = sample.image.shape[0]
        known = sample.valid.ravel()
        xy = cell_centres(sample.flow.shape[0])[known]
        truth = sample.flow.reshape(-1, 2)[known].astype(np.float64)
        moving = np.linalg.norm(truth, axis=-1) > MOVING
        if not moving.any():
            continue
        seed = zlib.crc32(sample.key.encode()) ^ settings.seed
        rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        order = choose_pokes(truth, max(settings.poke_counts), rng)
        predictor.set_image(sample.image)
        unconditional = predictor.predict(
            np.zeros((0, 4), np.float32), xy * size_px, camera_static=sample.camera_static
        )
        for count in settings.poke_counts:
            if count > len(order):
                continue  # so many points are not known
            pokes = np.concatenate([xy, truth], axis=-1)[order[:count]].astype(np.float32)
            common = {
                "key": sample.key,
                "family": sample.family,
                "scene": sample.scene,
                "camera_static": sample.camera_static,
                "pokes": count,
            }
            motion = (
                predictor.predict(pokes * size_px, xy * size_px, camera_static=sample.camera_static)
                if count
                else unconditional
            )
            score = motion.mixture.kl_divergence(unconditional.mixture).numpy()
            mixture = motion.mixture.to(torch.float64).affine(
                torch.eye(2, dtype=torch.float64) / size_px
            )
            record = common | {"method": MODEL}
            record |= _flow_record(mixture.mean().numpy(), truth, moving)
            record |= _model_record(mixture, score, truth, moving, settings, generator)
            if count == 1 and settings.joint_samples and sample.scene not in drawn_jointly:
                points = _points_of_poked_part(sample, moving, order[0])
                if len(points):
                    drawn_jointly.add(sample.scene)
                    chosen = rng.permutation(points)[: settings.joint_points]
                    record |= _joint_record(
                        predictor,
                        pokes * size_px,
                        xy[chosen] * size_px,
                        truth[chosen] * size_px,
                        REPORT_SIDE_PX / size_px,
                        settings.joint_samples,
                        generator,
                    )
            if not sample.camera_static:
                record |= {name: float("nan") for name in record if name.startswith("iou")}
            yield record
            for name in settings.compare_with:
                flow = baselines.predict(name, sample.image, pokes[:, :2], pokes[:, 2:], xy)
                row = common | {"method": name} | _flow_record(flow, truth, moving)
                if not sample.camera_static:
                    row["iou_flow"] = float("nan")
                yield row


def numbers_only(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The records; raises InvalidInputError at the first answer of the model that is no number.

    Left out of the means, it would be the model alone that is spared its hardest samples.
    """
    for record in records:
        if not (np.isfinite(record["epe_all_px"]) and np.isfinite(record.get("nll", 0.0))):
            raise InvalidInputError(
                f"the answer of the {record['method']} to sample {record['key']} at "
                f"{record['pokes']} pokes holds NaN or infinity; such weights cannot be compared"
            )
        yield record
