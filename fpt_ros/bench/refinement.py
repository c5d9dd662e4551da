"""How many queries refined maps save, and what that costs in accuracy, on test scenes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from fpt_ros.core.motion import DenseMaps
from fpt_ros.core.parts import MOVING
from fpt_ros.core.predictor import MotionPredictor
from fpt_ros.data.samples import REPORT_SIDE_PX, choose_pokes
from fpt_ros.evaluate import metrics
from fpt_ros.evaluate.runner import TestSample

GRID = 32
TOLERANCES_PX = (2.0, 1.0, 0.5)
UNIFORM = (32, 64, 96)  # grids without refinement, to compare with


def compare(
    predictor: MotionPredictor, samples: Iterable[TestSample]
) -> Iterator[list[dict[str, float | str]]]:
    """Yield, after each sample, a line for each way of making maps: means so far.

    Each is compared with the network asked at every pixel of its input, on the largest motion of
    the sample as the only poke. Samples with a moving camera, with points of unknown motion, or in
    which nothing moves, are passed over.
    """
    ways = [(f"uniform {n}x{n}", n, 0.0) for n in UNIFORM]
    ways += [(f"{GRID}x{GRID}, refined to {tol:g} px of 448", GRID, tol) for tol in TOLERANCES_PX]
    measured: dict[str, list[list[float]]] = {name: [] for name, _, _ in ways}
    for sample in samples:
        moving = np.linalg.norm(sample.flow, axis=-1) > MOVING
        if not (sample.camera_static and sample.valid.all() and moving.any()):
            continue
        size_px, cells = sample.image.shape[0], len(moving)
        flow = sample.flow.reshape(-1, 2).astype(np.float64)
        first = int(choose_pokes(flow, 1, np.random.default_rng(0))[0])
        start = (np.array([first % cells, first // cells]) + 0.5) / cells
        poke = size_px * np.concatenate([start, flow[first]])[None]
        scale = size_px / REPORT_SIDE_PX
        predictor.set_image(sample.image)
        full = predictor.dense_maps(poke, predictor.engine.config.encoder.input_px, 0.0)
        for name, n, tolerance_px in ways:
            maps = predictor.dense_maps(poke, n, scale * tolerance_px)
            measured[name].append(_differences(maps, full, scale))
        yield [_line(name, values) for name, values in measured.items()]


def _differences(maps: DenseMaps, full: DenseMaps, scale: float) -> list[float]:
    displacement_px = np.linalg.norm(maps.displacement_px - full.displacement_px, axis=-1)
    return [
        full.n_queried / maps.n_queried,
        float(displacement_px.mean()) / scale,
        float(np.abs(maps.uncertainty_px - full.uncertainty_px).mean()) / scale,
        metrics.intersection_over_union(maps.parts.mask, full.parts.mask),
    ]


def _line(name: str, values: Sequence[Sequence[float]]) -> dict[str, float | str]:
    array = np.array(values)
    _, displacement_px, deviation_px, iou = array.mean(0)
    return {
        "maps from": name,
        "fewer queries": 1 / float((1 / array[:, 0]).mean()),
        "displacement off by, px of 448": displacement_px,
        "deviation off by, px of 448": deviation_px,
        "IoU with the mask from every pixel": iou,
        "least": float(array[:, 3].min()),
        "scenes": len(values),
    }
