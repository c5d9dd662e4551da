"""Loose things on a table: single objects, groups that push each other, stacked blocks."""

from __future__ import annotations

import numpy as np

from fpt_ros.data.scenes.builder import SceneBuilder, turn
from fpt_ros.data.scenes.layout import Layout
from fpt_ros.data.scenes.things import thing


def _yaw(b: SceneBuilder) -> np.ndarray:
    return turn([0, 0, 1], b.uniform(0, 2 * np.pi))


def scatter(
    b: SceneBuilder,
    count: int,
    half: float,
    size: tuple[float, float],
    *,
    height: float = 0.0,
    centre: tuple[float, float] = (0.0, 0.0),
) -> int:
    """Put up to `count` loose things apart from each other; return how many found room."""
    taken: list[tuple[float, float, float]] = []
    for _ in range(count):
        s = b.uniform(*size)
        for _ in range(12):
            x, y = (b.uniform(-half, half) for _ in range(2))
            if all(np.hypot(x - u, y - v) > 0.62 * (s + r) for u, v, r in taken):
                taken.append((x, y, s))
                body = b.loose_body([centre[0] + x, centre[1] + y, height + 0.002], _yaw(b))
                thing(b, body, s)
                break
    return len(taken)


def loose_objects(b: SceneBuilder) -> Layout:
    """One to nine household things on a table or the floor."""
    count = int(b.rng.integers(1, 10))
    spread = b.uniform(0.09, 0.14) * np.sqrt(count)
    scatter(b, count, spread, (0.05, 0.16))
    return Layout("table", (0, 0, 0.05), spread + 0.1, spread + 0.15, spread + 0.15, np.pi)


def blocks(b: SceneBuilder) -> Layout:
    """Stacks, rows and pyramids of blocks, also cartons."""
    size = b.uniform(0.035, 0.1)
    same = b.chance(0.4)
    pattern = b.pick(["wood", "plain", "any", "cardboard"])
    shared = b.material(pattern)
    half = size / 2 * (b.rng.uniform(0.7, 1.4, 3) if b.chance(0.5) else np.ones(3))

    def block(x: float, y: float, level: int, yaw: float) -> None:
        body = b.loose_body([x, y, (2 * level + 1) * half[2] + 0.0005], turn([0, 0, 1], yaw))
        b.box(body, half, [0, 0, 0], shared if same else b.material(pattern, "any"))

    for _ in range(int(b.rng.integers(1, 4))):
        x, y = b.uniform(-2.2, 2.2) * size, b.uniform(-2.2, 2.2) * size
        if any(np.hypot(x - s.pos[0], y - s.pos[1]) < 3.2 * half[:2].max() for s in _bodies(b)):
            continue
        arrangement = b.pick(["tower", "row", "pyramid"])
        step = 2.04 * half[1]
        if arrangement == "tower":
            for level in range(int(b.rng.integers(2, 6))):
                shift = b.rng.normal(0, 0.06, 2) * size
                block(x + shift[0], y + shift[1], level, b.rng.normal(0, 0.15))
        elif arrangement == "row":
            for k in range(int(b.rng.integers(2, 5))):
                block(x, y + k * step * b.uniform(1, 1.1), 0, 0.0)
        else:
            base = int(b.rng.integers(2, 4))
            for level in range(base):
                for k in range(base - level):
                    block(x, y + (k + level / 2) * step, level, 0.0)
    scatter(b, int(b.rng.integers(0, 3)), 0.1, (0.04, 0.1), centre=(0.25, 0.1))
    radius = max(0.15, 3.2 * size)
    return Layout("table", (0, 0, 1.2 * size), radius, radius + 0.1, radius + 0.1, np.pi)


def _bodies(b: SceneBuilder) -> list:
    return [b.spec.body(name) for name in b.loose]
