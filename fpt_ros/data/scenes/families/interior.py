"""Swivel chairs, displays and mirrors on a foot, seats with nested lids."""

from __future__ import annotations

import itertools

import numpy as np

from fpt_ros.data.scenes import parts, shapes
from fpt_ros.data.scenes.builder import Body, SceneBuilder, turn
from fpt_ros.data.scenes.layout import Layout
from fpt_ros.data.scenes.things import open_profile, thing


def _tall(half_y: float, half_z: float, radius: float, thickness: float) -> shapes.Mesh:
    """An upright plate with round corners, its front at x = 0, about the origin in y and z."""
    outline = shapes.rounded_rectangle(half_z, half_y, radius, 8)
    vertices, faces = shapes.prism(outline, thickness)
    return vertices[:, [2, 1, 0]] * [-1, 1, 1], faces


def office_chair(b: SceneBuilder) -> Layout:
    """Swivel chairs and stools: the seat turns and rises, back and armrests tilt; some roll."""
    h, w = b.uniform(0.4, 0.6), b.uniform(0.18, 0.25)
    root = b.body(None, quat=turn([0, 0, 1], b.uniform(0, 2 * np.pi)))
    metal = b.material(b.pick(["plain", "brushed"]), b.pick(["dark", "metal", "light"]))
    dark = b.material("plain", b.pick(["dark", "grey"]))
    cloth = b.material(b.pick(["weave", "plain", "plain", "wood", "any"]))
    legs = int(b.rng.integers(4, 6)) if b.chance(0.75) else 0
    if legs and b.chance(0.6):
        b.slide(root, [1, 0, 0], -0.25, 0.25)
    for a in 2 * np.pi * np.arange(legs) / max(legs, 1):
        tip = 1.15 * w * np.array([np.cos(a), np.sin(a), 0])
        b.rod(root, [0, 0, 0.1], np.add(tip, [0, 0, 0.06]), 0.016, metal)
        b.ball(root, [0.026, 0.026, 0.03], np.add(tip, [0, 0, 0.03]), dark)
    if not legs:
        b.rod(root, [0, 0, 0], [0, 0, 0.02], 1.05 * w, metal, rounded=False)
    b.rod(root, [0, 0, 0.02], [0, 0, 0.62 * h], 0.028, dark, rounded=False)
    seat = b.body(root, [0, 0, h], stem="seat")
    if b.chance(0.4):
        b.slide(seat, [0, 0, 1], -0.08, 0.08, rest=b.uniform(-0.08, 0.08))
    seat = b.body(seat, stem="seat")
    b.hinge(seat, [0, 0, 1], -2.5, 2.5, rest=b.uniform(-1, 1))
    b.rod(seat, [0, 0, -0.6 * h], [0, 0, 0], 0.018, metal, rounded=False)
    thick = b.uniform(0.025, 0.07)
    if b.chance(0.3):  # a stool
        b.rod(seat, [0, 0, 0], [0, 0, thick], w, cloth, rounded=False)
        if b.chance(0.5):  # with a ring for the feet
            b.rod(root, [-0.8 * w, 0, 0.35 * h], [0.8 * w, 0, 0.35 * h], 0.008, metal)
            b.mesh(root, *shapes.torus(0.8 * w, 0.01), metal, pos=[0, 0, 0.35 * h], solid=False)
        return Layout("floor", (0, 0, 0.6 * h), 0.8 * h, 0.4, 0.4, np.pi, 0.3)
    outline = shapes.rounded_rectangle(w, w * b.uniform(0.9, 1.1), b.uniform(0.1, 0.8) * w)
    b.mesh(seat, *shapes.prism(outline, thick), cloth, smooth=False)
    b.box(seat, [0.5 * w, 0.3 * w, 0.015], [0, 0, -0.01], dark)
    rear = -w - 0.02
    b.rod(seat, [-0.4 * w, 0, -0.01], [rear, 0, -0.01], 0.016, dark)
    back = b.body(seat, [rear, 0, -0.01], stem="back")
    b.hinge(back, [0, 1, 0], -0.6, 0.1, rest=b.uniform(-0.3, 0.05))
    tall, low = b.uniform(0.12, 0.32), b.uniform(0.08, 0.18)
    b.rod(back, [0, 0, 0], [0, 0, low + tall], 0.016, dark)
    pad = _tall(w * b.uniform(0.75, 1.0), tall, b.uniform(0.1, 0.9) * min(tall, 0.7 * w), 0.04)
    b.mesh(back, *pad, cloth, pos=[0.045, 0, low + tall], smooth=False)
    rising, high = b.chance(0.3), b.uniform(0.16, 0.24)
    for sign in (-1, 1) if b.chance(0.6) else ():
        y = sign * (w * 1.1 + 0.03)
        b.rod(seat, [-0.3 * w, 0, -0.012], [-0.3 * w, y, -0.012], 0.013, dark)
        b.rod(seat, [-0.3 * w, y, -0.012], [-0.3 * w, y, high], 0.013, dark)
        arm = b.body(seat, [-0.3 * w, y, high], stem="armrest")
        if rising:
            b.slide(arm, [0, 0, 1], 0.0, 0.08)
            b.rod(arm, [0, 0, -0.09], [0, 0, 0], 0.011, metal)
        else:
            b.hinge(arm, [0, -1, 0], 0.0, 1.5)
        b.box(arm, [0.45 * w, 0.028, 0.012], [0.35 * w, 0, 0.02], dark)
    return Layout("floor", (0, 0, h), 0.55 * (h + 2 * tall), 0.45, 0.45, np.pi, 0.4)


def _screen(b: SceneBuilder, body: Body, half_y: float, half_z: float, z: float) -> None:
    """A thin panel with a picture on its front; its back is at x = 0, its middle at `z`."""
    rim, t = b.uniform(0.004, 0.03), b.uniform(0.006, 0.014)
    shell = b.material("plain", b.pick(["dark", "dark", "light", "metal", "grey"]))
    picture = b.material(b.pick(["poster", "gradient", "label"]), "any", emission=b.uniform(0, 0.3))
    b.box(body, [t, half_y, half_z], [t, 0, z], shell)
    b.box(body, [0.0008, half_y - rim, half_z - rim], [2 * t, 0, z], picture)


def _monitor(b: SceneBuilder) -> tuple[float, float]:
    """A screen or tablet on a column: it rises, swivels, tilts, and perhaps turns upright.

    Returns, as the others do, its height and half width (m).
    """
    w = b.uniform(0.18, 0.34) if b.chance(0.6) else b.uniform(0.09, 0.14)
    h = w * b.uniform(0.5, 0.8)
    root = b.body(None, quat=turn([0, 0, 1], b.uniform(-0.5, 0.5)))
    metal = b.material(b.pick(["plain", "brushed"]), b.pick(["dark", "metal", "light"]))
    up = h * b.uniform(1.1, 1.5) + 0.03
    if b.chance(0.5):
        b.rod(
            root,
            [-0.03, 0, 0],
            [-0.03, 0, 0.012],
            b.uniform(0.35, 0.5) * w + 0.02,
            metal,
            rounded=False,
        )
    else:
        b.box(root, [0.3 * w + 0.02, b.uniform(0.35, 0.6) * w, 0.006], [-0.03, 0, 0.006], metal)
    b.rod(root, [-0.05, 0, 0], [-0.05, 0, up + 0.3 * h], 0.014, metal, rounded=False)
    neck = b.body(root, [-0.05, 0, up], stem="neck")
    if b.chance(0.5):
        b.slide(neck, [0, 0, 1], 0.0, 0.3 * h)
    neck = b.body(neck, stem="neck")
    b.hinge(neck, [0, 0, 1], -0.9, 0.9, rest=b.uniform(-0.4, 0.4))
    b.rod(neck, [0, 0, -0.02], [0, 0, 0.02], 0.02, metal, rounded=False)
    ahead = 0.03 + 0.2 * w  # so far that the tilted screen clears the column
    b.rod(neck, [0, 0, 0], [ahead, 0, 0], 0.012, metal)
    head = b.body(neck, [ahead, 0, 0], stem="head")
    b.hinge(head, [0, 1, 0], -0.4, 0.2, rest=b.uniform(-0.2, 0.1))
    if np.hypot(w, h) < up - 0.03:
        head = b.body(head, stem="head")
        b.hinge(head, [1, 0, 0], 0.0, np.pi / 2)
    _screen(b, head, w, h, 0.0)
    return up + h, w


def _picture_frame(b: SceneBuilder) -> tuple[float, float]:
    """A frame, calendar or tablet that leans on a strut: the further back, the wider it stands."""
    w, h = b.rng.uniform(0.06, 0.18, 2)
    root = b.body(None, [0, 0, 0.002], turn([0, 0, 1], b.uniform(-0.6, 0.6)))
    frame = b.body(root, stem="frame")
    _screen(b, frame, w, h, h)
    f = b.uniform(1.1, 1.6) * h
    strut = b.body(frame, [-0.002, 0, f], stem="strut")
    # frame, strut and table make a triangle of two equal sides
    follows = b.hinge(strut, [0, 1, 0], 0.0, 1.3, listed=False)
    b.hinge(frame, [0, -1, 0], 0.12, 0.6, rest=b.uniform(0.15, 0.4), companions=((follows, 2.0),))
    width = b.uniform(0.1, 0.7) * w
    b.box(
        strut, [0.0015, width, f / 2], [-0.0015, 0, -f / 2], b.material(b.pick(["plain", "wood"]))
    )
    return 2 * h, w


def _mirror(b: SceneBuilder) -> tuple[float, float]:
    """A round or square mirror that tilts between the arms of a fork, which turns on a foot."""
    r = b.uniform(0.07, 0.14)
    h, foot = r * b.uniform(1.3, 2.2), b.uniform(0.5, 0.9) * r
    root = b.body(None, quat=turn([0, 0, 1], b.uniform(-0.5, 0.5)))
    metal = b.material(b.pick(["plain", "brushed", "wood"]), b.pick(["metal", "dark", "wood"]))
    glass = b.material("gradient", b.pick(["light", "grey"]))
    profile = np.array([[0, 0], [foot, 0], [foot, 0.008], [0.2 * foot, 0.02], [0, 0.02]])
    b.mesh(root, *shapes.lathe(profile), metal)
    fork = b.body(root, [0, 0, h], stem="fork")
    b.hinge(fork, [0, 0, 1], -1.2, 1.2, rest=b.uniform(-0.5, 0.5))
    b.rod(fork, [0, 0, 0.015 - h], [0, 0, -1.12 * r], 0.008, metal)
    a = np.linspace(-np.pi, 0, 9)
    arc = 1.12 * r * np.stack([0 * a, np.cos(a), np.sin(a)], -1)
    is_round = b.chance(0.6)
    if not is_round:
        arc = 1.12 * r * np.array([[0, -1, 0], [0, -1, -1], [0, 1, -1], [0, 1, 0]])
    for p, q in itertools.pairwise(arc):
        b.rod(fork, p, q, 0.005, metal)
    pane = b.body(fork, stem="mirror")
    b.hinge(pane, [0, 1, 0], -0.9, 0.9, rest=b.uniform(-0.5, 0.3))
    b.rod(pane, [0, -1.12 * r, 0], [0, 1.12 * r, 0], 0.006, metal)
    corner = r if is_round else 0.2 * r
    plate, inner = _tall(r, r, 0.98 * corner, 0.012), _tall(0.9 * r, 0.9 * r, 0.88 * corner, 0.002)
    b.mesh(pane, *plate, metal, pos=[0.006, 0, 0], smooth=False)
    b.mesh(pane, *inner, glass, pos=[0.0075, 0, 0], smooth=False)
    return h + r, 1.12 * r


def display(b: SceneBuilder) -> Layout:
    """Monitors, tablets, picture frames and mirrors that tilt and swivel on their foot."""
    makers = (_monitor, _monitor, _picture_frame, _mirror)
    high, half = makers[int(b.rng.integers(len(makers)))](b)
    for _ in range(int(b.rng.integers(0, 3))):
        aside = half + b.uniform(0.1, 0.2)
        at = [b.uniform(-0.2, 0.1), aside if b.chance(0.5) else -aside, 0]
        thing(b, b.body(None, at), 0.09)
    return Layout("table", (0, 0, 0.55 * high), 0.75 * high, 0.3, half + 0.05, 1.5, 0.6 * high)


def _bench(b: SceneBuilder) -> Layout:
    """A box to sit on whose lid folds in the middle, or lies in a frame that lifts as well."""
    w, d, h = b.rng.uniform([0.35, 0.3, 0.3], [0.9, 0.42, 0.48])
    root, shell = b.body(), b.material(b.pick(["wood", "plain", "planks", "weave"]))
    top = shell if b.chance(0.4) else b.material(b.pick(["wood", "plain", "weave"]))
    x, y, t = d / 2, w / 2, b.uniform(0.01, 0.03)
    parts.open_box(b, root, x, y, h, shell, 0.015, (-x, 0, 0))
    lid = b.body(root, [-d, 0, h + 0.001], stem="lid")
    if b.chance(0.5):
        b.hinge(lid, [0, -1, 0], 0.0, 1.4)
        b.box(lid, [x / 2, y, t], [x / 2, 0, t], top)
        leaf = b.body(lid, [x, 0, 2 * t], stem="lid")
        b.hinge(leaf, [0, -1, 0], 0.0, 3.0)
        b.box(leaf, [x / 2, y, t], [x / 2 + 0.002, 0, -t], top)
    else:
        b.hinge(lid, [0, -1, 0], 0.0, 0.7)
        rim = 0.22 * x
        for sign in (-1, 1):
            b.box(lid, [rim / 2, y, t], [x + sign * (x - rim / 2), 0, t], top)
            b.box(lid, [x - rim, rim / 2, t], [x, sign * (y - rim / 2), t], top)
        leaf = b.body(lid, [rim + 0.002, 0, 2 * t], stem="lid")
        b.hinge(leaf, [0, -1, 0], 0.0, 1.0)
        b.box(leaf, [x - rim - 0.003, y - rim - 0.002, t], [x - rim, 0, -t], b.material())
    for _ in range(int(b.rng.integers(0, 4))):
        inside = b.body(root, [-x * b.uniform(0.5, 1.5), b.uniform(-0.7, 0.7) * y, 0.015])
        thing(b, inside, min(0.15, 0.4 * h))  # below the lid, bottles too
    return Layout("floor", (-x, 0, 0.8 * h), 0.7 * w, 0.5, y, 1.3, d + 0.3)


def toilet(b: SceneBuilder) -> Layout:
    """A toilet: seat and lid on one axis, a cistern with a button or lever; or a lidded bench."""
    if b.chance(0.35):
        return _bench(b)
    china, r, h = b.material("plain", "light"), b.uniform(0.17, 0.2), b.uniform(0.36, 0.44)
    long, cover = (
        b.uniform(1.15, 1.4),
        china if b.chance(0.5) else b.material(b.pick(["plain", "wood"])),
    )
    root = b.body()
    vertices, faces = shapes.lathe(open_profile(b, r, h, 0.6 * r), 32)
    b.mesh(root, vertices * [long, 1, 1], faces, china)
    rear, deep = -long * r, b.uniform(0.07, 0.1)
    water = b.material("plain", "grey")
    b.ball(root, [0.68 * long * r, 0.68 * r, 0.002], [0, 0, b.uniform(0.25, 0.45) * h], water)
    b.box(root, [deep + 0.02, 0.6 * r, h / 2 - 0.001], [rear - deep + 0.02, 0, h / 2], china)
    tank, wide = b.uniform(0.15, 0.19), r * b.uniform(0.95, 1.2)
    back = rear - 0.05 - deep
    b.box(root, [deep, wide, tank], [back, 0, h + tank], china)
    b.box(root, [deep + 0.008, wide + 0.008, 0.012], [back, 0, h + 2 * tank + 0.012], china)
    metal = b.material("plain", "metal")
    flush = b.body(root, [back, 0, h + 2 * tank + 0.024], stem="button")
    if b.chance(0.5):
        b.slide(flush, [0, 0, 1], -0.015, 0.0)
        b.rod(flush, [0, 0, -0.01], [0, 0, 0.016], 0.035, metal, rounded=False)
    else:
        flush.pos = [back + deep, 0.75 * wide, h + 1.6 * tank]
        b.hinge(flush, [1, 0, 0], -0.2, 0.9)
        b.rod(flush, [0, 0, 0], [0.025, 0, 0], 0.012, metal, rounded=False)
        b.rod(flush, [0.025, 0, 0], [0.025, -0.1, 0], 0.009, metal)
    at, rise = [rear, 0, h + 0.004], 0.016
    seat = b.body(root, at, stem="seat")
    # what moves; "both": the seat takes the lid along
    mode = b.pick(["lid", "seat", "both", "both"])
    if mode != "lid":
        b.hinge(seat, [0, -1, 0], 0.0, 0.65 if mode == "both" else 1.5)
    vertices, faces = shapes.torus(0.8 * r, 0.22 * r, 32)
    vertices = vertices * [long, 1, rise / (0.44 * r)] + [-rear, 0, rise / 2]
    b.mesh(seat, vertices, faces, cover, solid=False)
    if mode == "seat":
        lid = b.body(root, [rear - rise, 0, h + 0.004], turn([0, -1, 0], 1.55), stem="lid")
    else:
        lid = b.body(seat, [0, 0, rise], stem="lid")
        b.hinge(lid, [0, -1, 0], 0.0, 0.85 if mode == "both" else 1.5)
    dome = np.array([[0, 0], [1.04 * r, 0], [1.04 * r, 0.01], [0.9 * r, 0.02], [0, 0.022]])
    vertices, faces = shapes.lathe(dome, 32)
    b.mesh(lid, vertices * [long, 1, 1] + [-rear, 0, 0], faces, cover)
    for sign in (-1, 1):
        b.rod(root, [rear, sign * 0.3 * r, h], [rear, sign * 0.3 * r, h + 0.016], 0.014, metal)
    return Layout("floor", (-0.1, 0, 0.85 * h), 0.42, 0.5, 0.35, 1.3, 2 * deep - back)
