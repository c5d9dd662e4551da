"""Jointed things: robot arms and grippers, boxes with flaps, tools, lamps."""

from __future__ import annotations

import numpy as np

from fpt_ros.data.scenes import parts, shapes
from fpt_ros.data.scenes.builder import Body, SceneBuilder, turn
from fpt_ros.data.scenes.layout import Layout
from fpt_ros.data.scenes.things import thing


def arm(b: SceneBuilder) -> Layout:
    """A serial arm of two to five links, often with a gripper."""
    links = int(b.rng.integers(2, 6))
    length = b.uniform(0.12, 0.3)
    thick = length * b.uniform(0.12, 0.22)
    shell = b.material("plain", b.pick(["light", "grey", "vivid", "dark"]))
    joint_look = shell if b.chance(0.3) else b.material("plain", b.pick(["dark", "grey", "vivid"]))
    boxy = b.chance(0.35)
    base = b.body()
    b.rod(base, [0, 0, 0], [0, 0, thick * 1.4], thick * 1.7, joint_look, rounded=False)
    parent, offset = base, np.array([0, 0, thick * 1.4])
    for k in range(links):
        link = b.body(parent, offset, stem="link")
        if k == 0:
            b.hinge(link, [0, 0, 1], -2.5, 2.5, rest=b.uniform(-2, 2))
            span = length * 0.5
        else:
            axis = [0, 1, 0] if b.chance(0.85) else [0, 0, 1]
            low, high = (0.1, 1.2) if k == 1 else (-0.4, 1.8)
            b.hinge(link, axis, low, high, rest=b.uniform(low, high))
            span = length * b.uniform(0.7, 1.1) * 0.92**k
        radius = thick * 0.9**k
        if boxy:
            b.box(link, [radius * 0.8, radius * 0.8, span / 2], [0, 0, span / 2], shell)
        else:
            b.rod(link, [0, 0, 0], [0, 0, span], radius * 0.85, shell)
        b.rod(
            link, [0, -radius * 1.15, 0], [0, radius * 1.15, 0], radius, joint_look, rounded=False
        )
        if b.chance(0.3):
            band = b.uniform(0.3, 0.7) * span
            b.rod(
                link,
                [0, 0, band],
                [0, 0, band + 0.1 * span],
                radius * 0.95,
                joint_look,
                rounded=False,
            )
        parent, offset = link, np.array([0, 0, span])
    if b.chance(0.75):
        _fingers(b, parent, offset, thick * 0.9**links, joint_look)
    reach = length * (0.5 + 0.75 * (links - 1))
    for _ in range(int(b.rng.integers(0, 3))):
        a, far = b.uniform(0, 6.28), reach * b.uniform(0.5, 0.9)
        thing(b, b.body(None, [far * np.cos(a), far * np.sin(a), 0]), 0.1)
    return Layout("table", (0, 0, 0.45 * reach), 0.75 * reach, 0.6 * reach, 0.6 * reach, np.pi)


def _fingers(b: SceneBuilder, parent: Body, at: np.ndarray, radius: float, look: str) -> None:
    """Two sliding or turning fingers that open together."""
    wrist = b.body(parent, at, stem="wrist")
    b.hinge(wrist, [0, 0, 1], -1.5, 1.5, rest=b.uniform(-1, 1))
    width = radius * b.uniform(1.8, 3.0)
    b.box(wrist, [radius * 0.7, width, radius * 0.6], [0, 0, radius * 0.6], look)
    dark = b.material("plain", b.pick(["dark", "grey", "metal"]))
    opening = width * 0.85
    reach = radius * b.uniform(1.5, 2.6)
    slides = b.chance(0.7)
    fingers: list[str] = []
    for sign in (1, -1):
        finger = b.body(
            wrist, [0, sign * opening * (0.05 if slides else 0.6), radius * 1.2], stem="finger"
        )
        if slides:
            other = ((fingers[0], 1.0),) if fingers else ()
            fingers.append(
                b.slide(
                    finger,
                    [0, sign, 0],
                    0,
                    opening * 0.85,
                    rest=opening * 0.5,
                    companions=other,
                    listed=bool(fingers),
                )
            )
        else:
            other = ((fingers[0], 1.0),) if fingers else ()
            fingers.append(
                b.hinge(finger, [-sign, 0, 0], -0.3, 0.7, companions=other, listed=bool(fingers))
            )
        b.box(
            finger,
            [radius * 0.35, radius * 0.18, reach / 2],
            [0, sign * radius * 0.18, reach / 2],
            dark,
        )
        if b.chance(0.5):
            b.box(
                finger,
                [radius * 0.35, radius * 0.3, reach * 0.12],
                [0, -sign * radius * 0.0, reach * 0.9],
                dark,
            )


def flap_box(b: SceneBuilder) -> Layout:
    """A carton with two to four flaps."""
    w, d, h = b.rng.uniform([0.12, 0.1, 0.06], [0.4, 0.32, 0.3])
    root = b.body(None, quat=turn([0, 0, 1], b.uniform(-0.8, 0.8)))
    look = (
        b.material("cardboard") if b.chance(0.75) else b.material(b.pick(["label", "plain", "any"]))
    )
    inside = look if b.chance(0.7) else b.material("cloudy", "carton")
    t = 0.004
    parts.open_box(b, root, d / 2, w / 2, h, look, t)
    # (edge centre, axis that opens upwards and outwards, half width, length)
    long_sides = [
        ([d / 2, 0], [0, 1, 0], w / 2, d / 2, 0.0),
        ([-d / 2, 0], [0, -1, 0], w / 2, d / 2, 0.0),
    ]
    short_sides = [
        ([0, w / 2], [-1, 0, 0], d / 2, b.uniform(0.6, 1.0) * min(d, w) / 2, t),
        ([0, -w / 2], [1, 0, 0], d / 2, b.uniform(0.6, 1.0) * min(d, w) / 2, t),
    ]
    flaps = long_sides + short_sides if b.chance(0.6) else long_sides
    if b.chance(0.2):
        flaps = [([-d / 2, 0], [0, -1, 0], w / 2, d, 0.0)]
    for (x, y), axis, half, length, drop in flaps:
        flap = b.body(root, [x, y, h + t - drop], stem="flap")
        # 0 = closed (lying inwards), pi = lying outwards, beyond = hanging down
        b.hinge(flap, axis, 0.0, b.uniform(2.6, 4.2), rest=b.uniform(0.0, 3.5))
        inward = -np.array([x, y]) / max(abs(x) + abs(y), 1e-9)
        size = np.abs(inward) * length / 2 + (1 - np.abs(inward)) * (half - 0.002)
        b.box(flap, [size[0], size[1], t / 2], [*(inward * length / 2), 0], inside)
    for _ in range(int(b.rng.integers(0, 4))):
        at = [b.uniform(-0.3, 0.3) * d, b.uniform(-0.3, 0.3) * w, t]
        thing(b, b.body(root, at), 0.4 * min(w, d))
    radius = 0.6 * float(np.linalg.norm([w, d, h]))
    support = "table" if b.compact or b.chance(0.8) else "floor"
    return Layout(support, (0, 0, 0.6 * h), radius, radius + 0.1, radius + 0.1, np.pi)


def desk_lamp(b: SceneBuilder) -> Layout:
    """A lamp or stand with a foot, two arms and a head that tilts."""
    length = b.uniform(0.15, 0.35)
    metal = b.material("plain", b.pick(["dark", "metal", "light", "vivid"]))
    root = b.body()
    foot = length * b.uniform(0.3, 0.5)
    b.rod(root, [0, 0, 0], [0, 0, 0.06 * length + 0.01], foot, metal, rounded=False)
    lower = b.body(root, [0, 0, 0.06 * length + 0.01], stem="link")
    b.hinge(lower, [0, 1, 0], -0.6, 0.9, rest=b.uniform(-0.4, 0.5))
    thick = length * b.uniform(0.02, 0.05)
    b.rod(lower, [0, 0, 0], [0, 0, length], thick, metal)
    upper = b.body(lower, [0, 0, length], stem="link")
    b.hinge(upper, [0, 1, 0], 0.2, 2.2, rest=b.uniform(0.6, 1.6))
    b.rod(upper, [0, 0, 0], [0, 0, length * 0.9], thick, metal)
    b.ball(upper, thick * 1.8, [0, 0, 0], b.material("plain", "metal"))
    head = b.body(upper, [0, 0, length * 0.9], stem="head")
    b.hinge(head, [0, 1, 0], -0.5, 1.6, rest=b.uniform(0.0, 1.2))
    shade = b.material("plain", b.pick(["vivid", "light", "dark"]))
    r = length * b.uniform(0.2, 0.4)
    if b.chance(0.6):
        profile = [
            [0, 0],
            [r * 0.35, 0],
            [r, r * 1.2],
            [r * 0.93, r * 1.2],
            [0.3 * r, 0.1 * r],
            [0, 0.1 * r],
        ]
        b.mesh(head, *shapes.lathe(np.array(profile)), shade)
    else:
        b.box(head, [r * 0.4, r, r * 0.25], [0, 0, r * 0.2], shade)
    for _ in range(int(b.rng.integers(0, 3))):
        at = [b.uniform(-0.2, 0.2), (0.15 + b.uniform(0, 0.2)) * (1 if b.chance(0.5) else -1), 0]
        thing(b, b.body(None, at), 0.1)
    return Layout("table", (0, 0, 0.8 * length), 1.1 * length, length, length, np.pi)


def tool(b: SceneBuilder) -> Layout:
    """Flat things of hinged parts on a table: pliers, folding rule, book or folder, case."""
    kind = b.pick(["chain", "pliers", "folder"])
    look, second = b.material(), b.material()
    root = b.body(None, [0, 0, 0.012], turn([0, 0, 1], b.uniform(0, 6.28)))
    if kind == "chain":
        parent, at = root, np.zeros(3)
        length, half = b.uniform(0.06, 0.14), b.uniform(0.006, 0.015)
        for k in range(int(b.rng.integers(2, 6))):
            link = b.body(parent, at, stem="link")
            b.hinge(link, [0, 0, 1], -2.4, 2.4, rest=b.uniform(-1.6, 1.6))
            b.box(
                link,
                [length / 2 + half * 0.5, half, 0.005],
                [length / 2, 0, 0],
                look if k % 2 else second,
            )
            b.rod(link, [0, 0, -0.005], [0, 0, 0.009], half * 0.6, second, rounded=False)
            parent, at = link, np.array([length, 0, 0.002 if k % 2 else -0.001])
        radius = 1.6 * length
    elif kind == "pliers":
        length = b.uniform(0.08, 0.16)
        first = ""
        for sign in (1, -1):
            half_tool = b.body(root, [0, 0, sign * 0.004], stem="half")
            other = ((first, -1.0),) if first else ()
            first = (
                b.hinge(half_tool, [0, 0, 1], -0.1, 0.7, rest=b.uniform(0.1, 0.4), companions=())
                if not first
                else b.hinge(half_tool, [0, 0, 1], -0.7, 0.1, rest=-0.2, companions=other)
            )
            grip = [-length, -sign * 0.12 * length, 0]
            b.rod(half_tool, [0, 0, 0], grip, 0.06 * length, look)
            b.rod(
                half_tool,
                [0, 0, 0],
                [0.55 * length, sign * 0.03 * length, 0],
                0.045 * length,
                second,
            )
        b.rod(
            root, [0, 0, -0.012], [0, 0, 0.014], 0.08 * length, b.material("brushed"), rounded=False
        )
        radius = length
    else:
        w, d = b.uniform(0.08, 0.16), b.uniform(0.12, 0.26)
        t = b.uniform(0.002, 0.02)
        page = b.material(b.pick(["plain", "label"]), "light")
        b.box(root, [w / 2, d / 2, t / 2], [w / 2, 0, t / 2 - 0.01], page)
        b.box(root, [w / 2 + 0.002, d / 2 + 0.003, 0.001], [w / 2, 0, -0.011], look)
        cover = b.body(root, [0, 0, t - 0.009], stem="cover")
        b.hinge(cover, [0, -1, 0], 0.02, 3.0, rest=b.uniform(0.02, 2.9))
        b.box(cover, [w / 2 + 0.002, d / 2 + 0.003, 0.0015], [w / 2, 0, 0.001], look)
        if b.chance(0.5):
            b.box(cover, [w / 2, d / 2, t * 0.3], [w / 2, 0, -t * 0.3], page)
        radius = d
    for _ in range(int(b.rng.integers(0, 3))):
        a = b.uniform(0, 6.28)
        far = radius * b.uniform(1.2, 1.6)
        thing(b, b.body(None, [far * np.cos(a), far * np.sin(a), 0]), 0.08)
    return Layout("table", (0, 0, 0.02), radius * 1.1, radius + 0.1, radius + 0.1, np.pi)
