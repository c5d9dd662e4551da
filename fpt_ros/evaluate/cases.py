"""Look at it: pictures of the samples that a model answered best and worst, beside the truth."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fpt_ros import draw
from fpt_ros.core.parts import MOVING
from fpt_ros.core.predictor import MotionPredictor
from fpt_ros.data.samples import REPORT_SIDE_PX, cell_centres, choose_pokes
from fpt_ros.evaluate.baselines import NO_MOTION
from fpt_ros.evaluate.runner import MODEL, TestSample

_PANEL_PX = 384
# Modes are drawn at so many points of the part that really moves.
_MODE_POINTS = 6


def best_and_worst(records: list[dict[str, Any]], n: int = 4) -> tuple[list[str], list[str]]:
    """Keys of n samples each, ranked at one poke by the share of the motion that is left as error.

    Each scene is shown once at most.
    """
    at_one = [record for record in records if record["pokes"] == 1]
    still = {r["key"]: r["epe_moving_px"] for r in at_one if r["method"] == NO_MOTION}
    left = {
        record["key"]: (record["epe_moving_px"] / still[record["key"]], record["scene"])
        for record in at_one
        if record["method"] == MODEL and record["key"] in still
    }
    ranked = sorted(left, key=lambda key: left[key][0])
    best = _one_per_scene(ranked, left)[:n]
    worst = _one_per_scene([key for key in ranked[::-1] if key not in best], left)[:n]
    return best, worst


def _one_per_scene(keys: list[str], left: dict[str, tuple[float, str]]) -> list[str]:
    first: dict[str, str] = {}
    for key in keys:
        first.setdefault(left[key][1], key)
    return list(first.values())


def save(
    out: Path,
    predictor: MotionPredictor,
    samples: Iterable[TestSample],
    best: list[str],
    worst: list[str],
) -> list[Path]:
    """Write best.jpg and worst.jpg into `out`: per sample the truth, the answer, its modes.

    Raises OSError when they cannot be written.
    """
    wanted = {*best, *worst}
    panels: dict[str, dict[str, np.ndarray]] = {}
    for sample in samples:
        if sample.key in wanted:
            panels[sample.key] = _panels(predictor, sample)
        if len(panels) == len(wanted):
            break
    written = []
    for name, keys in (("best.jpg", best), ("worst.jpg", worst)):
        rows = {title: image for key in keys for title, image in panels[key].items()}
        if rows:
            draw.save(out / name, draw.sheet(rows, columns=3))
            written.append(out / name)
    return written


def _panels(predictor: MotionPredictor, sample: TestSample) -> dict[str, np.ndarray]:
    """What really happens, what is expected of one poke on the longest motion, and its modes."""
    side_px = sample.image.shape[0]
    known = sample.valid.ravel()
    points = cell_centres(len(sample.flow))[known]
    flow = sample.flow.reshape(-1, 2)[known]
    chosen = choose_pokes(flow, 1, np.random.default_rng(0))
    poke = side_px * np.concatenate([points, flow], axis=-1)[chosen]
    moving = (np.linalg.norm(sample.flow, axis=-1) > MOVING) & sample.valid

    static = sample.camera_static
    frame = predictor.encode_image(sample.image)
    motion = predictor.predict(poke, side_px * points, static, frame)
    parts = predictor.moving_parts(poke, len(sample.flow), camera_static=static, frame=frame)
    on_part = np.flatnonzero(moving.ravel()[known])
    few = on_part[np.linspace(0, len(on_part) - 1, _MODE_POINTS).round().astype(int)]

    image, factor = draw.upscaled(sample.image, _PANEL_PX)
    size = image.shape[1::-1]

    def enlarged(mask: np.ndarray) -> np.ndarray:
        return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0

    def answer(displacements: np.ndarray, mask: np.ndarray) -> np.ndarray:
        scale = factor * side_px
        longest_px = scale * float(np.linalg.norm(flow, axis=-1).max())
        return draw.overview(
            image,
            factor * poke,
            scale * points,
            displacements,
            mask,
            longest_px=longest_px,
            enlarged_by=scale / REPORT_SIDE_PX,  # the scale tells px as the report does
        )

    mixture = motion.mixture
    modes = draw.draw_modes(
        draw.draw_pokes(image, factor * poke),
        factor * side_px * points[few],
        mixture.weights[few],
        factor * mixture.means[few],
        factor**2 * mixture.covariances[few],
    )
    label = f"{sample.family} {sample.key}"
    return {
        f"{label}: truth": answer(factor * side_px * flow, enlarged(moving)),
        f"{label}: expected": answer(factor * mixture.mean().numpy(), enlarged(parts.mask)),
        f"{label}: modes": modes,
    }
