"""Things that swing as one piece below what they hang from: signs, lamps, plants, mobiles."""

from __future__ import annotations

import numpy as np

from fpt_ros.data.scenes import shapes
from fpt_ros.data.scenes.builder import Body, SceneBuilder
from fpt_ros.data.scenes.families.mechanical import metal_look
from fpt_ros.data.scenes.layout import Layout
from fpt_ros.data.scenes.things import open_profile, thing


def _sign(b: SceneBuilder, body: Body, s: float, bar: int) -> None:
    """A board on two rods; `bar`: the axis (0 or 1) of what it hangs from."""
    along = np.eye(3)[bar]
    drop, half = b.uniform(0.1, 0.5) * s, np.full(3, 0.008) + 0.5 * s * along
    half[2] = b.uniform(0.2, 0.45) * s
    rod = metal_look(b)
    for share in (-0.8, 0.8):
        top = share * half[bar] * along
        b.rod(body, top, top - [0, 0, drop], 0.006, rod)
    at = [0, 0, -drop - half[2]]
    b.box(body, half, at, b.material(b.pick(["wood", "plain", "brushed", "any"])))
    face = np.where(np.arange(3) == 1 - bar, 1.15, 0.88) * half
    b.box(body, face, at, b.material(b.pick(["poster", "label", "plain", "stripes"])))


def _pendant(b: SceneBuilder, body: Body, s: float) -> None:
    """A lamp, potted plant, bell or ball on a cord, rod or three strings."""
    kind = b.pick(["lamp", "plant", "bell", "ball", "thing"])
    r, drop = s * b.uniform(0.2, 0.4), s * b.uniform(0.4, 1.3)
    cord = b.material("plain", b.pick(["dark", "light", "metal"]))
    thin = s * b.uniform(0.01, 0.03) + 0.001
    look = b.material(b.pick(["plain", "brushed", "weave", "any"]))
    if kind in ("plant", "thing"):
        high = r * b.uniform(0.7, 1.3)
        for a in np.arange(3) * 2.1:
            b.rod(body, [0, 0, 0], [0.97 * r * np.cos(a), 0.97 * r * np.sin(a), -drop], thin, cord)
        base = -drop - high
        pot = shapes.lathe(open_profile(b, r, high, r * b.uniform(0.4, 0.9)))
        b.mesh(body, *pot, look, pos=[0, 0, base])
        if kind == "thing":
            size = min(r, 0.4 * (drop + 0.9 * high))  # bottles end below what it hangs from
            thing(b, b.body(body, [0, 0, base + 0.1 * high]), size)
            return
        leaf = b.material("cloudy", [0.15, b.uniform(0.3, 0.6), 0.15])
        b.ball(body, [0.9 * r, 0.9 * r, 0.3 * r], [0, 0, -drop], leaf)
        for _ in range(int(b.rng.integers(3, 9))):
            a, far = b.uniform(0, 2 * np.pi), b.uniform(0.7, 1.2) * r
            tip = [far * np.cos(a), far * np.sin(a), -drop + b.uniform(-1.2, 0.8) * r]
            b.rod(body, [0.5 * tip[0], 0.5 * tip[1], -drop], tip, 0.1 * r, leaf)
        return
    b.rod(body, [0, 0, 0], [0, 0, -drop], thin, cord)
    if kind == "ball":
        b.ball(body, [r, r, r * b.uniform(0.8, 1.4)], [0, 0, -drop - 0.7 * r], look)
        return
    waist, high = b.uniform(0.15, 0.6) * r, r * b.uniform(0.7, 1.6)
    outer = [[0, 0], [waist, 0], [b.uniform(0.5, 1.0) * r, -0.5 * high], [r, -high]]
    inner = [[0.95 * r, -high], [0.8 * waist, -0.08 * high], [0, -0.08 * high]]
    b.mesh(body, *shapes.lathe(np.array([*outer, *inner])[::-1]), look, pos=[0, 0, -drop])
    light = b.material("plain", "light", emission=0.4 if kind == "lamp" else 0.0)
    b.ball(body, 0.25 * r, [0, 0, -drop - 0.8 * high], light)


def _mobile(b: SceneBuilder, body: Body, s: float) -> None:
    """Bars below one another, each turning about its cord, with balls and boxes at their ends."""
    cord = b.material("plain", b.pick(["dark", "metal", "wood"]))
    for level in range(int(b.rng.integers(1, 4))):
        half, drop = s * 0.5 * 0.55**level, s * b.uniform(0.3, 0.45)
        bar = b.body(body, stem="bar")
        b.hinge(bar, [0, 0, 1], -2.5, 2.5, rest=b.uniform(-2, 2))
        b.rod(bar, [0, 0, 0], [0, 0, -drop], 0.006 * s + 0.001, cord)
        b.rod(bar, [-half, 0, -drop], [half, 0, -drop], 0.015 * s + 0.001, cord)
        for end in (-half, half):
            low = -drop - s * b.uniform(0.1, 0.2)
            b.rod(bar, [end, 0, -drop], [end, 0, low], 0.006 * s + 0.001, cord)
            look = b.material(b.pick(["plain", "any"]), b.pick(["vivid", "any"]))
            if b.chance(0.5):
                b.ball(bar, s * b.rng.uniform(0.06, 0.11, 3), [end, 0, low], look)
            else:
                b.box(bar, s * b.rng.uniform([0.06, 0.02, 0.06], 0.11), [end, 0, low], look)
        body = b.body(bar, [0, 0, -drop])


def _picture(b: SceneBuilder, root: Body, s: float, look: str) -> Layout:
    """A framed picture on two strings from a nail."""
    wide, high = s * b.uniform(0.3, 0.7), s * b.uniform(0.3, 0.7)
    drop = s * b.uniform(0.05, 0.3)
    b.rod(root, [-0.02, 0, 0], [0.02, 0, 0], 0.008, look, rounded=False)
    hung = b.body(root, [0.004, 0, 0], stem="hung")
    b.hinge(hung, [1, 0, 0], -0.7, 0.7, rest=b.uniform(-0.2, 0.2))
    for y in (-0.8 * wide, 0.8 * wide):
        b.rod(hung, [0, 0, 0], [0, y, -drop], 0.003, look)
    centre = [0, 0, -drop - high]
    b.box(hung, [0.012, wide, high], centre, b.material(b.pick(["wood", "plain"])))
    b.box(hung, [0.014, 0.85 * wide, 0.85 * high], centre, b.material("poster"))
    return Layout("wall", (0, 0, -drop - high), 1.3 * s, 0.2, s, 1.0, 0.02)


def hanging(b: SceneBuilder) -> Layout:
    """Signs, lamps, plants, bells, mobiles and pictures that swing from a bracket, bar or nail."""
    s, count, frame = b.uniform(0.15, 0.45), 1, metal_look(b) if b.chance(0.5) else b.material()
    kind = b.pick(["bracket", "bracket", "gallows", "bar", "picture"])
    root = b.body()
    if kind == "picture":
        return _picture(b, root, s, frame)
    thick, axis = s * b.uniform(0.02, 0.05), 1
    if kind == "bracket":
        reach, axis = s * b.uniform(1.1, 1.4), 0
        b.box(root, [0.01, 2.5 * thick, 0.3 * s], [-0.01, 0, -0.1 * s], frame)
        b.rod(root, [0, 0, 0], [reach, 0, 0], thick, frame)
        b.rod(root, [0, 0, -0.3 * s], [0.15 * reach, 0, 0], 0.7 * thick, frame)
        spots = [np.array([0.6 * reach, 0, -thick])]
        layout = Layout("wall", (0.5 * reach, 0, -0.5 * s), 1.2 * s, 0.4, s, 1.0, 0.02)
    else:
        count = 1 if kind == "gallows" else int(b.rng.integers(1, 4))
        high, half = s * b.uniform(2.2, 3.0), s * (0.65 * count + 0.15)
        for y in (-half, half) if kind == "bar" else (-half,):
            b.rod(root, [0, y, 0], [0, y, high], thick, frame)
            b.box(root, [0.5 * s, 2 * thick, thick], [0, y, thick], frame)
        if kind == "gallows":
            b.box(root, [3 * thick, 0.6 * s, thick], [0, 0.3 * s - half, thick], frame)
        b.rod(root, [0, -half, high], [0, half, high], thick, frame)
        spots = [np.array([0, 1.3 * s * (k - (count - 1) / 2), high - thick]) for k in range(count)]
        support = "table" if b.compact or s < 0.3 else "floor"
        layout = Layout(support, (0, 0, high - 0.8 * s), max(1.2 * s, half), s, half, 1.2, s)
    for spot in spots:
        hung = b.body(root, spot, stem="hung")
        make = b.pick(["sign", "pendant", "pendant", "mobile"])
        if make == "mobile":
            _mobile(b, hung, s)
            continue
        b.hinge(hung, np.eye(3)[axis], -0.9, 0.9, rest=b.uniform(-0.3, 0.3))
        if make == "pendant":
            if count == 1 and b.chance(0.5):  # a cord swings every way
                hung = b.body(hung, stem="hung")
                # away from the wall behind a bracket; between the posts of a gallows
                low, high = (-0.25, 0.05) if axis == 0 else (-0.15, 0.15)
                b.hinge(hung, np.eye(3)[1 - axis], low, high)
            _pendant(b, hung, s)
        else:
            _sign(b, hung, s, axis)
    return layout
