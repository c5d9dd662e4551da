"""Books, cases and ovens: covers, lids, doors, and handles, clasps and racks that move on them."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpt_ros.data.scenes import parts, shapes
from fpt_ros.data.scenes.builder import Body, SceneBuilder, turn
from fpt_ros.data.scenes.layout import Layout
from fpt_ros.data.scenes.things import thing


def _pages(b: SceneBuilder) -> str:
    return b.material(b.pick(["plain", "cloudy", "stripes"]), "light")


def _lying_book(b: SceneBuilder, body: Body, half: ArrayLike, rest: float) -> None:
    """A book with its spine along y at x = 0 and its back cover on z = 0; the front cover turns.

    half: half sizes along x, y and z (m).
    """
    x, y, z = np.asarray(half, float)
    cover = b.material(b.pick(["plain", "label", "weave", "any"]))
    rim = b.uniform(0.0008, 0.0025)
    b.box(body, [x, y, rim], [x, 0, rim], cover)
    b.box(body, [rim, y, z], [-rim, 0, z], cover)
    b.box(body, [0.97 * x, 0.96 * y, z - 1.5 * rim], [0.97 * x, 0, z - 0.5 * rim], _pages(b))
    front = b.body(body, [0, 0, 2 * z - 2 * rim], stem="cover")
    # quite open, its far edge lies on the table
    b.hinge(front, [0, -1, 0], 0.0, np.pi + 0.9 * np.arcsin(min(1.0, z / x)), rest=rest)
    b.box(front, [x, y, rim], [x, 0, rim], cover)
    if b.chance(0.4):  # with some of the leaves
        b.box(front, [0.96 * x, 0.95 * y, rim], [0.97 * x, 0, -rim], _pages(b))
    if b.chance(0.6):
        title = b.material(b.pick(["poster", "label", "plain"]))
        b.box(front, [x * b.uniform(0.3, 0.8), y * 0.6, 0.0006], [x, 0, 2 * rim], title)


def _open_book(b: SceneBuilder, body: Body, half: ArrayLike) -> None:
    """A book or ring binder that lies open; some of its leaves turn about the spine."""
    x, y, z = np.asarray(half, float)
    cover, page = b.material(), _pages(b)
    b.box(body, [2 * x + 0.006, y + 0.004, 0.0015], [0, 0, 0.0015], cover)
    share = b.uniform(0.3, 1.0)
    for sign, height in ((1, z), (-1, share * z)):
        b.box(body, [x * 0.98, y, height], [sign * x, 0, 0.003 + height], page)
    leaves = int(b.rng.integers(1, 3))
    low, high = 0.05, np.pi / leaves - 0.05
    under, at = body, [0, 0, 0.004 + 2 * z]
    for _ in range(leaves):  # a leaf takes along the one on it, so that they never cross
        under = b.body(under, at, stem="leaf")
        b.hinge(under, [0, -1, 0], low, high, rest=b.uniform(low, high))
        b.box(under, [x * 0.97, y, 0.001], [x, 0, 0], _pages(b))
        at = [0, 0, 0]
    if b.chance(0.4):  # a ring binder
        ring, metal = shapes.torus(2 * z + 0.012, 0.0025, 18), b.material("brushed")
        upright = turn([1, 0, 0], np.pi / 2)
        for place in np.linspace(-0.6, 0.6, int(b.rng.integers(2, 5))):
            b.mesh(body, *ring, metal, pos=[0, place * y, 0.004], quat=upright)


def _standing_book(b: SceneBuilder, body: Body, half: ArrayLike) -> None:
    """A binder, folder or album that stands half open: two covers turn about the spine."""
    x, y, z = np.asarray(half, float)
    cover = b.material()
    b.box(body, [0.002, z, y], [-0.002, 0, y], cover)
    for sign in (-1, 1):
        board = b.body(body, [0, sign * z, 0], stem="cover")
        low, high = (0.02, 1.3) if sign > 0 else (-1.3, -0.02)
        b.hinge(board, [0, 0, 1], low, high, rest=b.uniform(low, high))
        b.box(board, [x, 0.002, y], [x, sign * 0.002, y], cover)
        if sign > 0 or b.chance(0.5):
            b.box(board, [x * 0.9, 0.3 * z, y * 0.93], [x * 0.95, -0.3 * sign * z, y], _pages(b))


def _pile(b: SceneBuilder, root: Body, half: NDArray[np.float64]) -> Body:
    """One to four closed books, each of which takes along what lies on it; a body on the top."""
    for _ in range(int(b.rng.integers(1, 5))):
        x, y, z = half * b.rng.uniform(1.0, 1.2, 3)
        cover = b.material(b.pick(["plain", "label", "weave", "any"]))
        for low in (0.12, 1.88):
            b.box(root, [x, y, z * 0.12], [x, 0, z * low], cover)
        b.box(root, [0.06 * x, y, z * 0.99], [0.06 * x, 0, z], cover)
        b.box(root, [x * 0.96, y * 0.96, z * 0.8], [x * 0.97, 0, z], _pages(b))
        yaw = turn([0, 0, 1], b.rng.normal(0, 0.15))
        root = b.body(root, [*b.rng.uniform(-0.01, 0.02, 2), 2 * z + 0.001], yaw, stem="book")
        if b.chance(0.5):
            b.slide(root, [b.uniform(-1, 1), b.uniform(-1, 1), 0], -0.06, 0.06)
        else:
            b.hinge(root, [0, 0, 1], -0.8, 0.8, pos=[x, 0, 0], rest=b.uniform(-0.4, 0.4))
    return root


def book(b: SceneBuilder) -> Layout:
    """Books, binders and albums: lying, open, standing, or in a pile that shifts."""
    half = b.rng.uniform([0.055, 0.08, 0.007], [0.12, 0.17, 0.028])
    kind = b.pick(["lying", "open", "standing", "pile", "pile"])
    yaw = b.uniform(0, 2 * np.pi)
    root = b.body(None, quat=turn([0, 0, 1], yaw))
    if kind == "open":
        _open_book(b, root, half)
    elif kind == "standing":
        _standing_book(b, root, half)
    elif kind == "pile":
        root = _pile(b, root, half)
    if kind in ("lying", "pile"):
        _lying_book(b, root, half, b.uniform(0, 3) if kind == "lying" else b.uniform(0, 1.5))
    reach = 2.2 * float(half[:2].max())
    middle = half[0] * np.array([np.cos(yaw), np.sin(yaw)]) * (kind != "open")
    focus = (float(middle[0]), float(middle[1]), float(half[1]) if kind == "standing" else 0.03)
    return Layout("table", focus, 0.8 * reach, reach, reach, np.pi)


def _bail(
    b: SceneBuilder,
    parent: Body,
    at: ArrayLike,
    half: float,
    reach: float,
    limits: tuple[float, float],
    *,
    out: bool = False,
) -> None:
    """A carrying handle that folds about y: at angle 0 it stands up, or `out` along +x."""
    look = b.material("plain", b.pick(["dark", "metal", "vivid", "light"]))
    body = b.body(parent, at, turn([0, 1, 0], np.pi / 2 if out else 0.0), stem="handle")
    b.hinge(body, [0, 1, 0], *limits, rest=b.uniform(*limits))
    thick = max(0.004, b.uniform(0.04, 0.09) * min(reach, 2 * half))
    for sign in (-1, 1):
        b.rod(body, [0, sign * half, 0], [0, sign * half, reach], thick, look)
    b.rod(body, [0, -half, reach], [0, half, reach], thick, look)
    if b.chance(0.5):
        grip = b.material(b.pick(["plain", "wood"]), b.pick(["dark", "wood", "vivid"]))
        b.rod(body, [0, -0.5 * half, reach], [0, 0.5 * half, reach], 1.6 * thick, grip)


def _hinged_case(b: SceneBuilder, root: Body) -> float:
    """A toolbox or a lying suitcase: hollow lid, folding handle, clasps that flip down."""
    flat = b.chance(0.5)
    low, high = (
        ([0.15, 0.2, 0.05], [0.24, 0.34, 0.1]) if flat else ([0.07, 0.14, 0.08], [0.13, 0.26, 0.17])
    )
    x, y, h = b.rng.uniform(low, high)
    rise, t = h * (b.uniform(0.5, 1.0) if flat else b.uniform(0.15, 0.5)), 0.006
    shell = b.material(b.pick(["plain", "brushed", "weave", "any"]))
    cover = shell if b.chance(0.6) else b.material("plain")
    parts.open_box(b, root, x, y, h, shell, t)
    lid = b.body(root, [-x, 0, h + 0.001], stem="lid")
    b.hinge(lid, [0, -1, 0], 0.0, b.uniform(1.3, 1.8))
    b.box(lid, [x, y, t / 2], [x, 0, rise - t / 2], cover)
    for sign in (-1, 1):
        b.box(lid, [t / 2, y, rise / 2], [x + sign * (x - t / 2), 0, rise / 2], cover)
        b.box(lid, [x - t, t / 2, rise / 2], [x, sign * (y - t / 2), rise / 2], cover)
    if flat:
        _bail(
            b, root, [x + 0.004, 0, 0.8 * h], b.uniform(0.2, 0.3) * y, 0.6 * h, (0, 1.5), out=True
        )
    else:
        span = b.uniform(0.3, 0.75) * y
        _bail(b, lid, [x, 0, rise + 0.006], span, b.uniform(0.5, 0.95) * x, (-1.5, 1.5))
    if b.chance(0.8):
        metal, s = b.material(b.pick(["plain", "brushed"]), "metal"), b.uniform(0.2, 0.3) * h
        half = [0.003, b.uniform(0.04, 0.09) * y + 0.004, 0.8 * s]
        for sign in (-1, 1):
            clasp = b.body(root, [x + 0.001, sign * 0.6 * y, h - s], stem="clasp")
            b.hinge(clasp, [0, 1, 0], 0.0, 2.6, rest=0.0 if b.chance(0.6) else b.uniform(0, 2.6))
            b.box(clasp, half, [0.003, 0, 0.8 * s], metal)
    for _ in range(int(b.rng.integers(0, 4))):
        inside = b.body(root, [b.uniform(-0.5, 0.5) * x, b.uniform(-0.6, 0.6) * y, t])
        thing(b, inside, 0.42 * min(h, x))  # below the lid, bottles too
    return float(np.hypot(y, x + h))


def _crate(b: SceneBuilder, root: Body) -> float:
    """A crate, basket or tray: a handle that swings over it, or one at each end and flaps."""
    x, y, h = b.rng.uniform([0.08, 0.1, 0.05], [0.18, 0.25, 0.22])
    look = b.material(b.pick(["plain", "wood", "weave", "planks", "any"]))
    parts.open_box(b, root, x, y, h, look)
    if b.chance(0.5):
        room, reach = 1.4 * h, b.uniform(1.2, 1.6) * x
        _bail(b, root, [0, 0, 0.9 * h], y + 0.012, reach, (-1.5, 1.5))
    else:
        room = 0.7 * h  # what is inside stays below the flaps
        for sign in (-1, 1):
            end = b.body(root, [0, sign * (y + 0.003), 0.85 * h], turn([0, 0, 1], sign * np.pi / 2))
            _bail(b, end, [0, 0, 0], 0.5 * x, min(0.6 * h, 0.5 * x), (0.0, 1.5), out=True)
        wood = look if b.chance(0.6) else b.material(b.pick(["plain", "wood"]))
        for sign in (-1, 1) if b.chance(0.5) else (1,):
            lid = b.body(root, [0, sign * y, h + 0.001], stem="lid")
            b.hinge(lid, [-sign, 0, 0], 0.0, 2.6, rest=b.uniform(0, 2.6))
            b.box(lid, [x, y / 2 - 0.001, 0.004], [0, -sign * y / 2, 0.004], wood)
    for _ in range(int(b.rng.integers(0, 5))):
        inside = b.body(root, [b.uniform(-0.5, 0.5) * x, b.uniform(-0.6, 0.6) * y, 0.008])
        thing(b, inside, 0.6 * min(room, x))
    return float(np.hypot(y, x + h))


def _rolling_suitcase(b: SceneBuilder, root: Body) -> float:
    """An upright suitcase on wheels: a handle that pulls out, one that folds, a pocket."""
    x, y, h = b.rng.uniform([0.1, 0.16, 0.4], [0.16, 0.25, 0.65])
    shell, dark = b.material(b.pick(["plain", "weave", "any"])), b.material("plain", "dark")
    outline = shapes.rounded_rectangle(x, y, b.uniform(0.2, 0.7) * x)
    b.mesh(root, *shapes.prism(outline, h), shell, pos=[0, 0, 0.045], smooth=False)
    for sx, sy in itertools.product((-0.75, 0.75), (-0.8, 0.8)):
        b.ball(root, [0.03, 0.018, 0.03], [sx * x, sy * y, 0.03], dark)
    for at in np.linspace(-0.6, 0.6, int(b.rng.integers(2, 6))) if b.chance(0.5) else ():
        b.rod(root, [x, at * y, 0.1], [x, at * y, h - 0.03], 0.006, shell)
    top, travel = h + 0.045, b.uniform(0.5, 0.8) * h
    grip = b.body(root, [-0.7 * x, 0, top], stem="handle")
    b.slide(grip, [0, 0, 1], 0.0, travel, rest=b.uniform(0, travel))
    metal, half = b.material("brushed", "metal"), b.uniform(0.25, 0.5) * y
    for sign in (-1, 1):
        b.rod(grip, [0, sign * half, -0.02 - travel], [0, sign * half, 0.02], 0.008, metal)
    b.rod(grip, [0, -half, 0.022], [0, half, 0.022], 0.014, dark)
    _bail(b, root, [0.1 * x, 0, top + 0.008], 0.35 * y, 0.45 * x, (0.0, 1.5))
    if b.chance(0.6):
        half_z = b.uniform(0.2, 0.4) * h
        pocket = b.body(root, [x, 0, 0.12], stem="pocket")
        b.hinge(pocket, [0, 1, 0], 0.0, 1.4)
        b.box(pocket, [0.012, 0.75 * y, half_z], [0.012, 0, half_z], b.material("plain"))
    return h


def storage_case(b: SceneBuilder) -> Layout:
    """Toolboxes, suitcases, crates: lids, clasps, handles that fold, swing or pull out."""
    root = b.body(None, quat=turn([0, 0, 1], b.rng.normal(0, 0.5)))
    makers = (_hinged_case, _hinged_case, _crate, _rolling_suitcase)
    maker = makers[int(b.rng.integers(3 if b.compact else 4))]
    size = maker(b, root)
    if maker is _rolling_suitcase:
        return Layout("floor", (0, 0, 0.6 * size), 0.8 * size, 0.4, 0.4, np.pi, 0.3)
    support = "table" if b.compact or b.chance(0.7) else "floor"
    return Layout(support, (0, 0, 0.3 * size), 0.85 * size, size, size, 1.2, size)


def _dial(b: SceneBuilder, parent: Body, at: ArrayLike, r: float, look: str, mark: str) -> None:
    """A knob on a front that faces +x."""
    knob = b.body(parent, at, stem="knob")
    b.hinge(knob, [1, 0, 0], -2.3, 2.3, rest=b.uniform(-1.5, 1.5))
    b.rod(knob, [0, 0, 0], [0.018, 0, 0], r, look, rounded=False)
    face = 0.018
    if b.chance(0.5):
        b.box(knob, [0.006, 0.22 * r, 0.95 * r], [face + 0.004, 0, 0], look)
        face += 0.01
    b.box(knob, [0.001, 0.12 * r, 0.35 * r], [face, 0, 0.55 * r], mark)
    b.rod(parent, at, np.add(at, [0.002, 0, 0]), 1.25 * r, mark, rounded=False)


def _rack(
    b: SceneBuilder,
    parent: Body,
    at: ArrayLike,
    half: tuple[float, float],
    room: float,
    slides: bool,
) -> None:
    """A wire rack, basket or drawer, its front at the origin, with things on it.

    half: half sizes along x and y (m). room: free height above its floor (m).
    """
    x, y = half
    rack = b.body(parent, at, stem="rack")
    if slides:
        b.slide(rack, [1, 0, 0], 0.0, 1.6 * x, rest=b.uniform(0, 1.6 * x))
    look = b.material("plain", b.pick(["metal", "light", "dark"]))
    height = min(b.uniform(0.05, 0.12), 0.7 * room) if b.chance(0.6) else 0.0
    if height and b.chance(0.4):
        parts.open_box(b, rack, x, y, height, look, centre=(-x, 0, 0))
    else:
        for side, z in itertools.product((-1, 1), {0.004, 0.004 + height}):
            b.rod(rack, [-2 * x, side * y, z], [0, side * y, z], 0.004, look)
            b.rod(rack, [-x + side * x, -y, z], [-x + side * x, y, z], 0.004, look)
        for k in np.linspace(-1, 1, int(b.rng.integers(5, 10))):
            b.rod(rack, [-2 * x, k * y, 0.004], [0, k * y, 0.004], 0.0025, look)
            if height:
                b.rod(rack, [0, k * y, 0.004], [0, k * y, height], 0.0025, look)
    for _ in range(int(b.rng.integers(0, 4))):
        on = b.body(rack, [-x * b.uniform(0.6, 1.4), b.uniform(-0.7, 0.7) * y, 0.008])
        thing(b, on, min(b.uniform(0.3, 0.5) * y, 0.4 * room))  # bottles have room, too


def oven(b: SceneBuilder) -> Layout:
    """Ovens, dishwashers, microwaves, washing machines: door, racks or drawers, knobs."""
    small = b.compact or b.chance(0.3)
    low, high = (
        ([0.36, 0.24, 0.28], [0.52, 0.36, 0.4]) if small else ([0.45, 0.55, 0.5], [0.65, 0.9, 0.6])
    )
    w, h, d = b.rng.uniform(low, high)
    root = b.body()
    shell = b.material(
        b.pick(["plain", "plain", "brushed"]), b.pick(["light", "grey", "dark", "metal"])
    )
    front = shell if b.chance(0.6) else b.material("plain", b.pick(["dark", "light", "metal"]))
    metal, dark = b.material("plain", b.pick(["metal", "dark"])), b.material("plain", "dark")
    t, strip, foot = 0.016, b.uniform(0.12, 0.2) * h, b.uniform(0.07, 0.11)
    z1 = h - strip
    drawer = 0.0 if small or b.chance(0.6) else b.uniform(0.18, 0.26) * h
    z0 = foot + drawer
    b.box(root, [d / 2 - 0.015, w / 2 - 0.01, foot / 2], [-d / 2 - 0.015, 0, foot / 2], dark)
    b.box(root, [d / 2, w / 2, strip / 2], [-d / 2, 0, h - strip / 2], shell)
    b.box(root, [t / 2, w / 2, (h - foot) / 2], [-d + t / 2, 0, (h + foot) / 2], shell)
    b.box(root, [d / 2, w / 2, t / 2], [-d / 2, 0, foot + t / 2], shell)
    for sign in (-1, 1):
        side_half = [d / 2 - t / 2, t / 2, (z1 - foot) / 2]
        b.box(root, side_half, [-d / 2, sign * (w - t) / 2, (z1 + foot) / 2], shell)
    if drawer:
        box = b.body(root, [0, 0, foot + 0.003], stem="drawer")
        b.slide(box, [1, 0, 0], 0.0, 0.7 * d)
        half = [t / 2, w / 2 - 0.002, drawer / 2 - 0.019]
        b.box(box, half, [t / 2, 0, drawer / 2 - 0.016], front)
        tray = (0.45 * d, w / 2 - 1.5 * t, 0.45 * drawer)
        parts.open_box(b, box, *tray, dark, 0.006, (-0.45 * d, 0, t))
        parts.handle(b, box, b.pick(["bar", "lip", "recess"]), t, 0, 0.45 * drawer, w, metal, False)
        b.box(root, [d / 2 - 0.002, w / 2 - t, 0.014], [-d / 2, 0, z0 - 0.015], shell)
    count = int(b.rng.integers(1, 5))
    size, mark = min(b.uniform(0.25, 0.38) * strip, 0.3 * w / count), b.material("plain", "light")
    for k in range(count):
        _dial(
            b,
            root,
            [0.0, (k - (count - 1) / 2) * 0.7 * w / count, h - strip / 2],
            size,
            metal,
            mark,
        )
    _oven_door(b, root, (w, z0, z1, d), front, metal, dark)
    support = "table" if small else "floor"
    return Layout(
        support, (0.05, 0, h / 2), 0.6 * float(np.hypot(w, h)), d / 2 + 0.3, w / 2, 1.0, d
    )


def _oven_door(
    b: SceneBuilder,
    root: Body,
    cell: tuple[float, float, float, float],
    front: str,
    metal: str,
    dark: str,
) -> None:
    """Close the opening (width, z from, z to, depth) by a round or a square door."""
    w, z0, z1, d = cell
    half_y, half_z, z = w / 2 - 0.002, (z1 - z0) / 2 - 0.003, (z0 + z1) / 2
    side = 1 if b.chance(0.5) else -1  # of the hinge, where it is upright
    glass = b.material(b.pick(["gradient", "plain"]), b.pick(["dark", "dark", "grey"]))
    if b.chance(0.3):
        r = b.uniform(0.75, 0.95) * min(half_y, half_z)
        b.box(root, [0.008, half_y, half_z + 0.003], [-0.008, 0, z], front)
        b.rod(root, [0, 0, z], [0.003, 0, z], 0.88 * r, dark, rounded=False)
        door = b.body(root, [0.005, side * r, z], stem="door")
        b.hinge(door, [0, 0, side], 0.0, b.uniform(1.4, 2.4))
        lower, upper = ([0.005, side * r, z + dz * r] for dz in (-0.15, 0.15))
        b.rod(root, lower, upper, 0.012, metal, rounded=False)
        flat = turn([0, 1, 0], np.pi / 2)
        rim = shapes.torus(0.88 * r, 0.12 * r, 32)
        b.mesh(door, rim[0] * [1, 1, 0.3], rim[1], metal, pos=[0.04 * r, -side * r, 0], quat=flat)
        b.ball(door, [0.2 * r, 0.85 * r, 0.85 * r], [0.02 * r, -side * r, 0], glass)
        b.box(door, [0.05 * r, 0.08 * r, 0.2 * r], [0.07 * r, -side * 1.88 * r, 0], metal)
        return
    falls = b.chance(0.6)
    pulled = b.chance(0.5)  # the door stands open and what is inside slides out
    edge = np.array([0, 0, -half_z]) if falls else np.array([0, side * half_y, 0])
    axis = [0, 1, 0] if falls else [0, 0, side]
    fixed = falls and pulled
    at = np.array([0, 0, z]) + edge
    door = b.body(root, at, turn(axis, 1.55 if fixed else 0.0), stem="door")
    if not fixed:
        b.hinge(door, axis, 1.5 if pulled else 0.0, 1.55 if falls else 2.2, rest=1.6 * pulled)
    t = b.uniform(0.008, 0.016)
    centre = np.array([t, 0, 0]) - edge
    b.box(door, [t, half_y, half_z], centre, front)
    if b.chance(0.75):
        b.box(door, [t + 0.001, half_y * b.uniform(0.6, 0.85), half_z * 0.6], centre, glass)
    free = [t, 0, 0.85 * half_z] if falls else [t, -side * 0.85 * half_y, 0]
    kind = b.pick(["bar", "bow", "lip", "recess"])
    span = 2 * (half_y if falls else half_z)
    x, y, z = np.add(centre, free).tolist()
    parts.handle(b, door, kind, x, y, z, span, metal, upright=not falls)
    count = int(np.clip((z1 - z0) / 0.12, 1, b.rng.integers(1, 4)))
    levels = z0 + np.append(np.linspace(0.2, 0.7, count), 1.0) * (z1 - z0)
    for low, high in itertools.pairwise(levels.tolist()):
        _rack(b, root, [-0.02, 0, low], (0.44 * d, 0.9 * half_y), high - low - 0.02, pulled)
        for sign in (-1, 1):  # what it runs on
            rail = [0.44 * d, 0.06 * half_y, 0.003]
            b.box(root, rail, [-0.02 - rail[0], sign * 0.92 * half_y, low - 0.003], metal)
