"""Windows: sliding panes and swinging sashes in a wall, sliding doors of cupboards."""

from __future__ import annotations

import numpy as np

from fpt_ros.data.scenes import parts
from fpt_ros.data.scenes.builder import Body, SceneBuilder
from fpt_ros.data.scenes.layout import Layout
from fpt_ros.data.scenes.things import thing


def _wall_with_hole(b: SceneBuilder, half_y: float, half_z: float) -> Body:
    root = b.body()
    look = b.material(b.pick(["plain", "cloudy", "tiles", "stripes"]), "light")
    depth = 0.06
    for sign in (-1, 1):
        b.box(root, [depth, 1.0, 1.5], [-depth, sign * (half_y + 1.0), 0], look)
        b.box(root, [depth, half_y, 0.6], [-depth, 0, sign * (half_z + 0.6)], look)
    outside = b.material("gradient", [0.7, 0.8, 0.92], emission=0.5)
    b.box(root, [0.01, 2.0, 2.0], [-0.7, 0, 0], outside)
    return root


def _frame(
    b: SceneBuilder,
    body: Body,
    half_y: float,
    half_z: float,
    bar: float,
    depth: float,
    look: str,
    centre: tuple[float, float, float],
) -> None:
    c = np.asarray(centre, float)
    for sign in (-1, 1):
        b.box(body, [depth, bar, half_z], np.add(c, [0, sign * (half_y - bar), 0]), look)
        b.box(body, [depth, half_y - 2 * bar, bar], np.add(c, [0, 0, sign * (half_z - bar)]), look)


def _pane(
    b: SceneBuilder,
    body: Body,
    half_y: float,
    half_z: float,
    look: str,
    centre: tuple[float, float, float],
    glass: str,
    bar: float,
    depth: float,
) -> None:
    _frame(b, body, half_y, half_z, bar, depth, look, centre)
    c = np.asarray(centre, float)
    b.box(body, [0.002, half_y - 2 * bar, half_z - 2 * bar], c, glass)
    if b.chance(0.3):
        b.box(body, [depth * 0.7, bar * 0.4, half_z - 2 * bar], c, look)
        b.box(body, [depth * 0.7, half_y - 2 * bar, bar * 0.4], c, look)


def _glass(b: SceneBuilder) -> str:
    kind = b.pick(["clear", "bright", "dark"])
    if kind == "clear":
        return b.material("plain", [0.75, 0.85, 0.9], alpha=b.uniform(0.15, 0.4))
    return b.material("gradient", "light" if kind == "bright" else "dark")


def sliding_window(b: SceneBuilder) -> Layout:
    """Two panes in a wall, one or both slide sideways or up."""
    half_y, half_z = b.uniform(0.25, 0.6), b.uniform(0.25, 0.55)
    root = _wall_with_hole(b, half_y, half_z)
    look = b.material(b.pick(["plain", "plain", "wood"]), b.pick(["light", "wood", "grey", "dark"]))
    sash = look if b.chance(0.6) else b.material("plain")
    glass = _glass(b)
    bar = b.uniform(0.012, 0.028)
    _frame(b, root, half_y + bar, half_z + bar, bar, 0.05, look, (-0.03, 0, 0))
    sideways = b.chance(0.7)
    unit = np.array([0, 1.0, 0]) if sideways else np.array([0, 0, 1.0])
    size = (
        (half_y / 2 + bar / 2, half_z - bar) if sideways else (half_y - bar, half_z / 2 + bar / 2)
    )
    reach = (half_y if sideways else half_z) - bar
    for sign in (-1, 1):
        rest_at = unit * sign * reach / 2
        pane = b.body(root, np.add(rest_at, [0.0 if sign > 0 else -0.03, 0, 0]), stem="pane")
        _pane(b, pane, *size, sash, (0, 0, 0), glass, bar, 0.011)
        if sign > 0 or b.chance(0.5):
            b.slide(pane, -sign * unit, 0.0, reach * b.uniform(0.7, 0.95))
            at = unit * sign * (size[0] if sideways else size[1]) * 0.93
            parts.handle(
                b,
                pane,
                b.pick(["bar", "recess", "knob", "lip"]),
                0.011,
                at[1],
                at[2],
                0.2,
                b.material("plain", "metal"),
                sideways,
            )
    return Layout(
        "wall", (0, 0, 0), float(np.hypot(half_y, half_z)), 0.3, half_y, 0.8, opening=True
    )


def sliding_cupboard(b: SceneBuilder) -> Layout:
    """A cupboard whose fronts slide past each other; things inside."""
    largest = [0.7, 0.4, 0.3] if b.compact else [1.1, 0.7, 0.45]
    w, h, d = b.rng.uniform([0.4, 0.2, 0.2], largest)
    root = b.body()
    shell = b.material(b.pick(["wood", "plain", "any"]))
    front = shell if b.chance(0.5) else b.material(b.pick(["wood", "plain", "any"]))
    t = 0.012
    for z in (t, h - t):
        b.box(root, [d / 2, w / 2, t], [-d / 2, 0, z], shell)
    for sign in (-1, 1):
        b.box(root, [d / 2, t, h / 2], [-d / 2, sign * (w / 2 - t), h / 2], shell)
    b.box(root, [0.005, w / 2, h / 2], [-d + 0.005, 0, h / 2], shell)
    count = int(b.rng.integers(2, 4))
    half = (w / 2 - 2 * t) / count + 0.012
    kind = b.pick(parts.HANDLES)
    metal = b.material("plain", "metal")
    travel = (w - 4 * t) - 2 * half
    for k in range(count):
        y = -w / 2 + 2 * t + half + k * travel / (count - 1)
        panel = b.body(root, [-0.012 - 0.02 * (k % 2), y, h / 2], stem="panel")
        b.slide(panel, [0, 1, 0], -k * travel / (count - 1), travel * (1 - k / (count - 1)))
        b.box(panel, [0.008, half, h / 2 - 2 * t], [0, 0, 0], front)
        side = b.pick(["-", "+"])
        dy = 0.8 * half * (1 if side == "+" else -1)
        parts.handle(b, panel, kind, 0.008, dy, 0, h * 0.5, metal, True)
    for _ in range(int(b.rng.integers(1, 5))):
        at = [-d * b.uniform(0.4, 0.75), b.uniform(-0.42, 0.42) * w, 2 * t]
        thing(b, b.body(root, at), min(0.5 * h, 0.14))
    support = "table" if h < 0.45 else "floor"
    radius = 0.5 * float(np.hypot(w, h))
    return Layout(support, (0, 0, h / 2), radius, d / 2 + 0.1, w / 2, 0.9, d)


def swing_window(b: SceneBuilder) -> Layout:
    """Sashes hinged at a side, the top or the bottom of an opening in a wall."""
    half_y, half_z = b.uniform(0.2, 0.6), b.uniform(0.25, 0.6)
    root = _wall_with_hole(b, half_y, half_z)
    look = b.material(b.pick(["plain", "wood"]), b.pick(["light", "wood", "grey", "dark"]))
    sash = look if b.chance(0.7) else b.material("plain")
    bar, glass = b.uniform(0.015, 0.035), _glass(b)
    _frame(b, root, half_y + bar, half_z + bar, bar, 0.05, look, (-0.045, 0, 0))
    double = half_y > 0.35 and b.chance(0.5)
    metal = b.material("plain", "metal")
    sides = ["right", "left"] if double else [b.pick(["left", "right", "top", "bottom"])]
    for side in sides:
        hy = half_y / 2 if double else half_y
        cy = {"right": -hy, "left": hy}[side] if double else 0.0
        hy, hz = hy - 0.003, half_z - 0.003
        edge = {"left": [0, hy, 0], "right": [0, -hy, 0], "top": [0, 0, hz], "bottom": [0, 0, -hz]}
        axis = {"left": [0, 0, 1], "right": [0, 0, -1], "top": [0, -1, 0], "bottom": [0, 1, 0]}
        at = np.array(edge[side], float)
        pane = b.body(root, np.array([0, cy, 0]) + at, stem="sash")
        b.hinge(pane, axis[side], 0.0, b.uniform(1.2, 1.9) if side in ("left", "right") else 0.9)
        centre = tuple(-at)
        _pane(b, pane, hy, hz, sash, centre, glass, bar, 0.015)
        free = -2 * at * 0.96
        upright = side in ("left", "right")
        parts.handle(
            b, pane, b.pick(["bar", "knob", "lip"]), 0.015, free[1], free[2], 0.22, metal, upright
        )
    return Layout(
        "wall", (0, 0, 0), float(np.hypot(half_y, half_z)), 0.4, half_y, 0.8, opening=True
    )
