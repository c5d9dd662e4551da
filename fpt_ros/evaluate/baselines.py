"""Motion predictions that need no learning: what a model has to beat.

Every baseline has the same signature and works in unit-square coordinates:

    baseline(image uint8 [S, S, 3], poke_xy [P, 2], poke_flow [P, 2], query_xy [N, 2]) -> [N, 2]

Without pokes each of them predicts rest.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.spatial import KDTree
from skimage.segmentation import felzenszwalb

Baseline = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]

# Chosen on the validation split (221 samples, one and five pokes): the width of the Gaussian
# fall-off, a fraction of the image side, by its error over moving points (a narrower one errs less
# over all points); how large segments are (Felzenszwalb's scale) by their IoU with what moves.
FALL_OFF_STD = 0.15
SEGMENT_SCALE = 400


def no_motion(image, poke_xy, poke_flow, query_xy) -> np.ndarray:
    """Nothing ever moves."""
    return np.zeros_like(query_xy)


def poke_everywhere(image, poke_xy, poke_flow, query_xy) -> np.ndarray:
    """Every point makes the mean motion of the pokes."""
    return np.broadcast_to(poke_flow.mean(axis=0), query_xy.shape).copy()


def nearest_poke(image, poke_xy, poke_flow, query_xy) -> np.ndarray:
    """Every point copies the poke that is closest to it."""
    return poke_flow[KDTree(poke_xy).query(query_xy)[1]]


def fall_off(image, poke_xy, poke_flow, query_xy) -> np.ndarray:
    """Copy the nearest poke, fading with distance: exp(-d^2 / 2 sigma^2), sigma FALL_OFF_STD."""
    distance, index = KDTree(poke_xy).query(query_xy)
    return poke_flow[index] * np.exp(-0.5 * (distance / FALL_OFF_STD) ** 2)[:, None]


def thin_plate(image, poke_xy, poke_flow, query_xy) -> np.ndarray:
    """Thin-plate spline through the pokes; affine terms only where enough pokes fix them."""
    distinct = np.unique(poke_xy, axis=0, return_index=True)[1]
    if len(distinct) < 4 or np.linalg.matrix_rank(poke_xy[distinct] - poke_xy[0], tol=1e-4) < 2:
        return similarity(image, poke_xy, poke_flow, query_xy)
    spline = RBFInterpolator(poke_xy[distinct], poke_flow[distinct], kernel="thin_plate_spline")
    return spline(query_xy)


def similarity(image, poke_xy, poke_flow, query_xy) -> np.ndarray:
    """Least-squares rotation, scale and translation of the whole picture (one poke: translation).

    Written over complex numbers: z -> a z + b, the closed form of Umeyama (1991) in the plane.
    """
    z = poke_xy @ np.array([1, 1j])
    w = z + poke_flow @ np.array([1, 1j])
    spread = np.sum(np.abs(z - z.mean()) ** 2)
    a = np.vdot(z - z.mean(), w - w.mean()) / spread if spread > 1e-12 else 1.0
    q = query_xy @ np.array([1, 1j])
    moved = a * (q - z.mean()) + w.mean() - q
    return np.stack([moved.real, moved.imag], axis=-1)


def segment_copy(image, poke_xy, poke_flow, query_xy) -> np.ndarray:
    """Copy each poke to the colour segment that holds it; the rest stays.

    Segments: Felzenszwalb and Huttenlocher (2004). Where several pokes share a segment, a point
    follows the nearest of them.
    """
    small = cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA)
    labels = felzenszwalb(small, scale=SEGMENT_SCALE, sigma=0.8, min_size=40)

    def label_at(points):
        cell = np.clip((points * 128).astype(int), 0, 127)
        return labels[cell[:, 1], cell[:, 0]]

    poke_label, query_label = label_at(poke_xy), label_at(query_xy)
    flow = np.zeros_like(query_xy)
    for label in np.unique(poke_label):
        inside, own = query_label == label, poke_label == label
        if inside.any():
            flow[inside] = nearest_poke(image, poke_xy[own], poke_flow[own], query_xy[inside])
    return flow


NO_MOTION = "no motion"
BASELINES: dict[str, Baseline] = {
    NO_MOTION: no_motion,
    "poke everywhere": poke_everywhere,
    "nearest poke": nearest_poke,
    "Gaussian fall-off": fall_off,
    "thin-plate spline": thin_plate,
    "similarity": similarity,
    "segment copy": segment_copy,
}


def predict(name: str, image, poke_xy, poke_flow, query_xy) -> np.ndarray:
    """Run the named baseline; [N, 2] float64. Rest where there is no poke."""
    query = np.asarray(query_xy, dtype=np.float64)
    if len(poke_xy) == 0:
        return np.zeros_like(query)
    return BASELINES[name](
        image, np.asarray(poke_xy, np.float64), np.asarray(poke_flow, np.float64), query
    )
