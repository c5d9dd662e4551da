"""Families kept for the test split: laptops and taps (swing windows are in windows.py)."""

from __future__ import annotations

import itertools

import numpy as np

from fpt_ros.data.scenes import parts
from fpt_ros.data.scenes.builder import SceneBuilder, turn
from fpt_ros.data.scenes.layout import Layout
from fpt_ros.data.scenes.things import thing


def laptop(b: SceneBuilder) -> Layout:
    """A notebook computer; the screen turns."""
    w, d, t = b.uniform(0.26, 0.4), b.uniform(0.18, 0.27), b.uniform(0.006, 0.012)
    shell = b.material(
        b.pick(["plain", "brushed"]), b.pick(["grey", "dark", "light", "metal", "vivid"])
    )
    root = b.body(None, quat=turn([0, 0, 1], b.uniform(-0.4, 0.4)))
    keys = b.material("keyboard", b.pick(["grey", "dark", "light"]))
    b.box(root, [d / 2, w / 2, t], [0, 0, t], shell)
    # the picture's upper edge lies towards the screen
    b.box(root, [w * 0.48, d * 0.46, 0.0006], [0, 0, 2 * t], keys, quat=turn([0, 0, 1], np.pi / 2))
    screen = b.body(root, [-d / 2 + 0.004, 0, 2 * t + 0.001], stem="screen")
    b.hinge(screen, [0, -1, 0], 0.0, b.uniform(2.0, 2.5), rest=b.uniform(1.2, 2.0))
    b.box(screen, [d / 2, w / 2, t * 0.45], [d / 2, 0, t * 0.45], shell)
    picture = b.material("poster", b.pick(["dark", "any", "vivid"]), emission=b.uniform(0.2, 0.7))
    b.box(screen, [d * 0.45, w * 0.47, 0.0006], [d * 0.51, 0, 0], picture)
    for _ in range(int(b.rng.integers(0, 3))):
        side = 1 if b.chance(0.5) else -1
        at = [b.uniform(-0.15, 0.15), side * (w / 2 + b.uniform(0.08, 0.2)), 0]
        thing(b, b.body(None, at), 0.08)
    return Layout("table", (0, 0, 0.08), 0.6 * w, 0.35, w, 1.2)


def tap(b: SceneBuilder) -> Layout:
    """A water tap over a basin: swivelling spout, one lever or two handles."""
    metal = b.material(b.pick(["brushed", "plain"]), b.pick(["metal", "metal", "dark", "light"]))
    root = b.body()
    height, reach = b.uniform(0.08, 0.3), b.uniform(0.1, 0.2)
    thick = b.uniform(0.008, 0.016)
    b.rod(root, [0, 0, 0], [0, 0, height * 0.4], thick * 1.7, metal, rounded=False)
    b.rod(root, [0, 0, 0], [0, 0, 0.008], thick * 2.6, metal, rounded=False)
    spout = b.body(root, [0, 0, height * 0.4], stem="spout")
    b.hinge(spout, [0, 0, 1], -1.2, 1.2, rest=b.uniform(-0.6, 0.6))
    if b.chance(0.6):
        angles = np.linspace(np.pi, 0.1, 7)
        arc = np.stack(
            [
                reach / 2 + reach / 2 * np.cos(angles),
                0 * angles,
                height * 0.6 + reach / 2 * np.sin(angles),
            ],
            -1,
        )
        points = np.concatenate([[[0, 0, 0]], arc, [arc[-1] - [0, 0, 0.2 * height]]])
    else:
        points = np.array(
            [[0, 0, 0], [0, 0, height * 0.4], [reach, 0, height * b.uniform(0.3, 0.6)]]
        )
    for p, q in itertools.pairwise(points):
        b.rod(spout, p, q, thick, metal)
    if b.chance(0.6):
        top = b.chance(0.5)
        at = [0, 0, height * 0.25] if not top else [0, 0, 0]
        holder = b.body(root if not top else spout, at if not top else [0, 0, height * 0.45])
        lever = b.body(holder, stem="lever")
        swing = b.chance(0.5)
        b.hinge(lever, [0, 0, 1] if swing else [0, 1, 0], -0.7, 0.7, rest=b.uniform(-0.4, 0.4))
        out = [-0.02, (0.09 if not top else 0.0), 0.03] if not top else [-0.08, 0, 0.05]
        b.rod(lever, [0, 0, 0], out, thick * 0.6, metal)
        b.ball(lever, thick * 1.5, [0, 0, 0], metal)
    else:
        for sign in (-1, 1):
            gap = sign * b.uniform(0.07, 0.11)
            b.rod(root, [0, gap, 0], [0, gap, 0.04], thick * 1.2, metal, rounded=False)
            valve = b.body(root, [0, gap, 0.045], stem="valve")
            b.hinge(valve, [0, 0, 1], -1.5, 1.5, rest=b.uniform(-1, 1))
            arm = b.uniform(0.03, 0.045)
            b.rod(valve, [-arm, 0, 0], [arm, 0, 0], thick * 0.6, metal)
            if sign > 0 or b.chance(0.8):
                b.rod(valve, [0, -arm, 0], [0, arm, 0], thick * 0.6, metal)
            b.ball(valve, thick, [0, 0, 0.006], b.material("plain", "vivid"))
    basin = b.material(b.pick(["plain", "brushed"]), b.pick(["light", "metal"]))
    centre = (reach + 0.03, 0.0, -0.001)
    parts.open_box(b, root, 0.13, 0.2, 0.02, basin, 0.012, centre)
    return Layout("table", (0.04, 0, 0.45 * height), max(0.16, 0.8 * height), 0.3, 0.3, 1.1, 0.1)
