"""What would move if I push here? The Python API in one page.

    python examples/what_if.py photo.jpg 320 240 60 0        # push (320, 240) by 60 px to the right

Writes what_if.png: expected motion, possible motions of the point, uncertainty, moving part.
"""

import sys

import cv2
import numpy as np

from fpt_ros import draw
from fpt_ros.core.predictor import MotionPredictor
from fpt_ros.weights import default_checkpoint

if len(sys.argv) != 6:
    sys.exit(__doc__)
file, *numbers = sys.argv[1:]
bgr = cv2.imread(file)
if bgr is None:
    sys.exit(f"{file} is not a picture that OpenCV reads")
rgb = np.asarray(bgr[..., ::-1], np.uint8)
poke = np.array([numbers], dtype=float)  # [1, 4]: x, y, dx, dy in pixels

# The image is encoded once; every question after that is about it.
predictor = MotionPredictor.from_checkpoint(default_checkpoint())
predictor.set_image(rgb)

# One point: a mixture of Gaussians over its displacement, in pixels.
touched = predictor.predict(poke, poke[:, :2])
for weight, mean in zip(*(values[0] for values in touched.mixture.modes()), strict=True):
    if weight > 0:
        print(f"{weight:4.0%}  moves by ({mean[0]:+.1f}, {mean[1]:+.1f}) px")
print(f"moves more than 10 px: {touched.mixture.prob_longer_than(10)[0]:.0%}")

# Dense answers, each an array of the size of the image.
grid = predictor.predict_grid(poke, n=32)
parts = predictor.moving_parts(poke, n=32)
uncertainty_px = predictor.uncertainty(poke, n=32)

# What a planner does: many alternatives in one batch, here eight directions; which one moves the
# touched point furthest to the left?
angles = np.arange(8) * np.pi / 4
reach = np.hypot(*poke[0, 2:])
directions = reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
candidates = [np.append(poke[0, :2], direction)[None] for direction in directions]
answers = predictor.predict_candidates(candidates, poke[:, :2])
best = answers.mixture.mean()[:, 0, 0].argmin()
print(f"furthest to the left: push by ({directions[best][0]:+.0f}, {directions[best][1]:+.0f})")

# Alternatives that are consistent over the whole grid, not point by point.
some = grid.points_px[::64]
together = predictor.sample_jointly(poke, some, n_samples=4)
print(f"mean motion in 4 joint samples: {np.linalg.norm(together, axis=-1).mean(1).round(1)} px")

mixture = touched.mixture
panels = {
    "expected motion": draw.overview(rgb, poke, grid.points_px, grid.mixture.mean()),
    "possible motions": draw.draw_modes(
        rgb, touched.points_px, mixture.weights, mixture.means, mixture.covariances
    ),
    "uncertainty": draw.draw_uncertainty(rgb, uncertainty_px),
    "moving part": draw.draw_pokes(draw.draw_parts(rgb, parts.mask), poke),
}
cv2.imwrite("what_if.png", draw.sheet(panels)[..., ::-1])
