"""Things that turn, rock or roll as a whole: wheels, balances, trolleys."""

from __future__ import annotations

import numpy as np

from fpt_ros.data.scenes import parts, shapes
from fpt_ros.data.scenes.builder import Body, SceneBuilder, turn
from fpt_ros.data.scenes.layout import Layout
from fpt_ros.data.scenes.things import open_profile, thing

UPRIGHT = turn([1, 0, 0], np.pi / 2)
"""Turns a prism so that its outline is (x, z) and it reaches towards -y."""


def yawed(b: SceneBuilder, spread: float) -> Body:
    """A body turned about z by a random angle with standard deviation `spread` (rad)."""
    return b.body(None, quat=turn([0, 0, 1], b.rng.normal(0, spread)))


def metal_look(b: SceneBuilder) -> str:
    """A material for axles, rods and fittings."""
    return b.material(b.pick(["plain", "brushed"]), b.pick(["metal", "metal", "dark", "grey"]))


def _turned(b: SceneBuilder, body: Body, r: float, look: str) -> None:
    """What is taken hold of and turned about z: a wheel, crank or cross, hub at the origin."""
    other = look if b.chance(0.5) else b.material("plain", b.pick(["metal", "dark", "wood"]))
    tube = r * b.uniform(0.05, 0.12)
    kind = b.pick(["wheel", "wheel", "wheel", "ship", "cross", "crank", "disc"])
    b.rod(body, [0, 0, -tube], [0, 0, 1.4 * tube], r * b.uniform(0.12, 0.25), other, rounded=False)
    if kind == "crank":
        b.box(body, [r / 2, b.uniform(0.07, 0.14) * r, 0.05 * r], [r / 2, 0, 0], look)
        grip = b.uniform(0.1, 0.17) * r
        b.rod(body, [0.95 * r, 0, 0], [0.95 * r, 0, b.uniform(0.4, 0.8) * r], grip, other)
        return
    if kind == "disc":
        b.rod(body, [0, 0, -tube], [0, 0, tube], r, look, rounded=False)
        other = b.material("plain", "dark")
    elif kind != "cross":
        b.mesh(body, *shapes.torus(r, tube, 36), look)
    spokes = int(b.rng.integers(2 if kind == "wheel" else 3, 9 if kind == "ship" else 6))
    thick = tube * b.uniform(0.5, 1.0)
    for k in range(spokes):
        a = 2 * np.pi * k / spokes
        out = np.array([np.cos(a), np.sin(a), 0.0])
        if kind == "disc":
            hole, high = 0.62 * r * out, np.array([0, 0, 1.05 * tube])
            b.rod(body, hole - high, hole + high, 0.17 * r, other, rounded=False)
            continue
        b.rod(body, 0 * out, (1.3 if kind == "ship" else 0.98) * r * out, thick, other)
        if kind == "ship":
            b.rod(body, 1.1 * r * out, 1.3 * r * out, 1.5 * thick, other)
        elif kind == "cross":
            b.ball(body, 2 * tube, r * out, look)
    if kind == "wheel" and b.chance(0.35):
        b.rod(body, [r, 0, tube], [r, 0, tube + 0.35 * r], 1.3 * tube, other)


def wheel(b: SceneBuilder) -> Layout:
    """Valve and steering wheels, cranks and ship wheels on walls, posts, pipes and machines."""
    mount = b.pick(["wall", "post", "pipe", "machine"])
    look = b.material(b.pick(["plain", "plain", "brushed", "wood"]), b.pick(["vivid", "any"]))
    base, metal = b.material(), metal_look(b)
    r = b.uniform(0.06, 0.22)
    facing = np.pi / 2  # of the axle, from straight up to the front
    stem = r * b.uniform(0.35, 0.9)
    if mount == "wall":
        root = b.body()
        t = r * b.uniform(0.15, 0.4)
        if b.chance(0.5):
            along = np.array([0.0, 1.0, 0.0] if b.chance(0.5) else [0.0, 0.0, 1.0])
            b.rod(root, -6 * r * along - [t, 0, 0], 6 * r * along - [t, 0, 0], t, base)
        else:
            b.box(root, [t, *(r * b.rng.uniform(0.4, 1.6, 2))], [-t, 0, 0], base)
        spots = [[0.0, 0.0, 0.0]]
        layout = Layout("wall", (stem, 0, 0), 1.6 * r, 0.3, 2 * r, 1.0, 2 * t)
    elif mount == "machine":
        count = int(b.rng.integers(1, 4))
        r *= 0.5
        stem *= 0.5
        half = np.array([b.uniform(1, 3), 1.6 * count, b.uniform(1.5, 3)]) * r
        root = yawed(b, 0.4)
        b.box(root, half, [0, 0, half[2]], base)
        if b.chance(0.4):
            facing, level = 0.0, 2 * half[2]
        else:
            level = b.uniform(1.45 * r, 2 * half[2] - 0.5 * r)
        x = half[0] if facing else 0.0
        spots = [[x, (k - (count - 1) / 2) * 3 * r, level] for k in range(count)]
        reach = float(np.linalg.norm(half))
        layout = Layout("table", (0, 0, half[2]), 1.1 * reach, reach, reach, 1.2, reach)
    elif mount == "post":
        root, h, thick = yawed(b, 0.5), b.uniform(3.0, 6.0) * r, r * b.uniform(0.12, 0.3)
        facing = b.uniform(0.0, np.pi / 2)
        b.rod(root, [0, 0, thick], [0, 0, h], thick, base)
        b.box(root, [b.uniform(0.5, 1.2) * r, b.uniform(0.5, 1.2) * r, 0.02], [0, 0, 0.02], base)
        stem = max(stem, 1.6 * thick + 0.15 * r)
        spots = [[0.0, 0.0, h]]
        support = "table" if b.compact or r < 0.1 else "floor"
        layout = Layout(support, (0, 0, h - 0.3 * r), 2.2 * r, 3 * r, 2 * r, 1.3, 1.5 * r)
    else:
        root, thick = yawed(b, 0.4), r * b.uniform(0.25, 0.5)
        level = 1.4 * r + 0.02
        facing = b.uniform(0.0, np.pi / 2)
        b.rod(root, [0, -3 * r, level], [0, 3 * r, level], thick, metal, rounded=False)
        for y in (-2.8, -0.8, 0.8, 2.8):
            ends = [0, y * r - 0.08 * r, level], [0, y * r + 0.08 * r, level]
            b.rod(root, *ends, 1.4 * thick, base, rounded=False)
        for y in (-2.2, 2.2):
            b.box(root, [0.5 * thick, 0.1 * r, level / 2], [0, y * r, level / 2], base)
        b.ball(root, [1.3 * thick, 0.9 * r, 1.3 * thick], [0, 0, level], base)
        stem = max(stem, 1.4 * thick + 0.3 * r)
        spots = [[0.0, 0.0, level]]
        layout = Layout("table", (0, 0, 1.8 * r), 2.4 * r, 3 * r, 3 * r, 1.3, 2 * r)
    for spot in spots:
        holder = b.body(root, spot, turn([0, 1, 0], facing))
        b.rod(holder, [0, 0, 0], [0, 0, stem], r * b.uniform(0.06, 0.1), metal, rounded=False)
        turned = b.body(holder, [0, 0, stem], stem="wheel")
        b.hinge(turned, [0, 0, 1], -3.1, 3.1, rest=b.uniform(-3, 3))
        _turned(b, turned, r, look)
    return layout


def _seesaw(b: SceneBuilder) -> Layout:
    """A plank on a wedge or trestle, from a toy to a playground's."""
    half, h, wide = b.uniform(0.45, 1.1), b.uniform(0.2, 0.42), b.uniform(0.06, 0.16)
    if b.compact or b.chance(0.3):
        half, h, wide = 0.3 * half, 0.3 * h, 0.3 * wide
    root, base = yawed(b, 0.4), b.material()
    look = b.material(b.pick(["wood", "planks", "plain"]), b.pick(["any", "vivid"]))
    t = 0.08 * h
    if b.chance(0.5):
        outline = [[-0.7 * h, 0], [0.7 * h, 0], [0, h - t]]
        stand = b.body(root, quat=turn([0, 0, 1], np.pi / 2))
        at = [0, 0.8 * wide, 0]
        wedge = shapes.prism(outline, 1.6 * wide)
        b.mesh(stand, *wedge, base, pos=at, quat=UPRIGHT, smooth=False)
    else:
        for sign in (-1, 1):
            for y in (-0.6, 0.6):
                x = sign * (wide + 0.1 * h)
                b.rod(root, [1.3 * x, y * h, 0], [x, 0, h], 0.06 * h, base)
        b.rod(root, [-wide - 0.1 * h, 0, h], [wide + 0.1 * h, 0, h], 0.06 * h, base)
    limit = 0.9 * float(np.arcsin((h - 2 * t) / half))
    plank = b.body(root, [0, 0, h], stem="plank")
    b.hinge(plank, [1, 0, 0], -limit, limit, rest=b.uniform(-limit, limit))
    b.box(plank, [wide, half, t], [0, 0, 0], look)
    grip = metal_look(b) if b.chance(0.6) else None
    for sign in (-1, 1):
        if grip:
            y, top = sign * 0.62 * half, 0.6 * h
            b.rod(plank, [0, y, 0], [0, y, top], 0.06 * h, grip)
            b.rod(plank, [-wide, y, top], [wide, y, top], 0.06 * h, grip)
        if b.chance(0.6):
            thing(b, b.body(plank, [0, sign * 0.85 * half, t]), b.uniform(0.8, 1.3) * wide)
    support = "floor" if half > 0.4 else "table"
    return Layout(support, (0, 0, 0.6 * h), 0.85 * half, half, half, 1.3, 0.6 * half)


def _scale(b: SceneBuilder) -> Layout:
    """Two pans that stay level, hung from the ends of a beam or standing on them."""
    half, hung = b.uniform(0.1, 0.25), b.chance(0.6)
    drop = half * (b.uniform(0.7, 1.4) if hung else b.uniform(0.2, 0.4))
    h = drop + 0.6 * half if hung else 0.6 * half
    root, metal = yawed(b, 0.4), metal_look(b)
    look = metal if b.chance(0.5) else b.material()
    b.rod(root, [0, 0, 0], [0, 0, 0.12 * half], 0.5 * half, look, rounded=False)
    b.rod(root, [0, 0, 0], [0, 0, h], 0.07 * half, look, rounded=b.chance(0.5))
    beam = b.body(root, [0.1 * half, 0, h], stem="beam")
    b.box(beam, [0.03 * half, half, 0.05 * half], [0, 0, 0], metal)
    b.rod(beam, [-0.1 * half, 0, 0], [0.05 * half, 0, 0], 0.1 * half, look, rounded=False)
    if hung and b.chance(0.6):
        b.rod(beam, [0, 0, 0], [0, 0, 0.4 * half], 0.02 * half, metal)
    pans, r = [], half * (b.uniform(0.35, 0.7) if hung else b.uniform(0.4, 0.85))
    for sign in (-1, 1):
        pan = b.body(beam, [0, sign * 0.97 * half, 0], stem="pan")
        pans.append((b.hinge(pan, [1, 0, 0], -0.5, 0.5, listed=False), -1.0))
        z = -drop if hung else drop
        b.mesh(pan, *shapes.lathe(open_profile(b, r, 0.25 * r, 0.6 * r)), look, pos=[0, 0, z])
        for a in np.arange(3) * 2.1 if hung else ():
            rim = [0.97 * r * np.cos(a), 0.97 * r * np.sin(a), z + 0.24 * r]
            b.rod(pan, [0, 0, 0], rim, 0.012 * half + 0.001, metal)
        if not hung:
            b.rod(pan, [0, 0, 0], [0, 0, drop], 0.08 * half, metal)
        if b.chance(0.5):
            size = b.uniform(0.5, 1.0) * r
            if hung:
                size = min(size, 0.4 * drop)  # bottles end below the beam
            thing(b, b.body(pan, [0, 0, z + 0.03 * r]), size)
    tilt = b.uniform(0.25, 0.4)
    b.hinge(beam, [1, 0, 0], -tilt, tilt, rest=b.uniform(-tilt, tilt), companions=tuple(pans))
    return Layout("table", (0, 0, 0.6 * h), 1.5 * half, half + 0.1, 2 * half, 1.2, half)


def _rocker(b: SceneBuilder) -> Layout:
    """A cradle, seat, horse or board on curved runners that roll on the floor."""
    r, arc, wide = b.uniform(0.3, 0.7), b.uniform(0.5, 0.75), b.uniform(0.12, 0.25)
    thick = b.uniform(0.012, 0.02)
    root = b.body(None, [0, 0, r + thick], turn([0, 0, 1], b.uniform(-1.6, 1.6)))
    look = b.material(b.pick(["wood", "wood", "plain"]))
    seat = look if b.chance(0.5) else b.material()
    middle = b.body(root, stem="middle")  # of the runners' circle, which rolls without slipping
    rolls = ((b.slide(middle, [1, 0, 0], -r, r, listed=False), r),)
    body, limit = b.body(middle, stem="rocker"), 0.6 * arc
    b.hinge(body, [0, 1, 0], -limit, limit, rest=b.uniform(-0.5, 0.5) * limit, companions=rolls)
    angles = np.linspace(-arc, arc, 9)
    curve = r * np.stack([np.sin(angles), 0 * angles, -np.cos(angles)], -1)
    for side in ([0, wide, 0], [0, -wide, 0]):
        for k in range(8):
            b.rod(body, curve[k] + side, curve[k + 1] + side, thick, look)
    long, deck = r * np.sin(arc), -r * np.cos(arc)
    b.box(body, [0.9 * long, wide + thick, thick], [0, 0, deck], look)
    deck += thick
    kind = b.pick(["cradle", "seat", "horse", "load"])
    if kind == "cradle":
        at = (0, 0, deck)
        parts.open_box(b, body, 0.85 * long, wide, b.uniform(0.12, 0.25), seat, 0.012, at)
    elif kind == "seat":
        slant = [-0.4 * long - 0.12, 0, deck + 0.22]
        b.box(body, [0.6 * long, wide, 0.04], [0.2 * long, 0, deck + 0.04], seat)
        b.box(body, [0.015, wide, 0.25], slant, seat, quat=turn([0, 1, 0], -0.5))
    elif kind == "horse":
        z = deck + 0.2
        b.ball(body, [0.7 * long, 0.6 * wide, 0.09], [0, 0, z], seat)
        b.rod(body, [0.5 * long, 0, z], [0.8 * long, 0, z + 0.2], 0.05, seat)
        b.rod(body, [0.75 * long, 0, z + 0.22], [1.1 * long, 0, z + 0.16], 0.045, seat)
        b.rod(body, [0.7 * long, -wide, z + 0.13], [0.7 * long, wide, z + 0.13], 0.014, look)
        for x in (-0.45, 0.45):
            for y in (-0.4, 0.4):
                foot = [1.4 * x * long, 1.5 * y * wide, deck]
                b.rod(body, [x * long, y * wide, z], foot, 0.022, seat)
    else:
        thing(b, b.body(body, [0, 0, deck]), 1.2 * min(wide, long))
    return Layout("floor", (0, 0, 0.25), 0.42, long + 0.3, long + 0.3, np.pi)


def balance(b: SceneBuilder) -> Layout:
    """Seesaws, scales whose pans stay level, cradles and seats on runners."""
    makers = (_seesaw, _scale, _rocker)
    return makers[int(b.rng.integers(len(makers)))](b)


def _wheels(b: SceneBuilder, cart: Body, x: float, y: float, r: float) -> list[tuple[str, float]]:
    """Four wheels under a cart that runs along x; the joints that turn with it, and how fast."""
    tyre, rim = b.material("plain", b.pick(["dark", "dark", "vivid"])), b.material("plain")
    rolling, half = r > 0.05, 0.25 * r
    joints = []
    for sx in (-1, 1):
        for sy in (-1, 1):
            at = [sx * x, sy * y, r]
            place = b.body(cart, at, stem="wheel")
            if rolling:
                joints.append((b.hinge(place, [0, 1, 0], -60, 60, listed=False), 1 / r))
            b.rod(place, [0, -half, 0], [0, half, 0], r, tyre, rounded=False)
            b.rod(place, [0, -1.2 * half, 0], [0, 1.2 * half, 0], 0.6 * r, rim, rounded=False)
            for a in (0.0, np.pi / 2):
                spoke = 0.55 * r * np.array([np.cos(a), 0, np.sin(a)])
                out = [0, 1.2 * sy * half, 0]
                b.rod(place, out - spoke, out + spoke, 0.06 * r, tyre)
    return joints


def trolley(b: SceneBuilder) -> Layout:
    """Carts that roll along the floor: hand wagons, tipping carts, racks with a drawer."""
    kind = b.pick(["wagon", "tipper", "rack", "rack"])
    x, y = b.uniform(0.25, 0.5), b.uniform(0.15, 0.28)
    r = b.uniform(0.03, 0.06) if kind == "rack" else b.uniform(0.07, 0.13)
    root = b.body(None, quat=turn([0, 0, 1], b.uniform(-np.pi, np.pi)))
    look = b.material(b.pick(["plain", "wood", "brushed"]))
    other, metal = look if b.chance(0.4) else b.material(), metal_look(b)
    cart = b.body(root, stem="cart")
    aside = y - 0.3 * r if kind == "rack" else y + 0.35 * r
    joints = _wheels(b, cart, 0.75 * x, aside, r)
    travel = b.uniform(0.25, 0.5)
    b.slide(cart, [1, 0, 0], -travel, travel, companions=tuple(joints))
    deck, top = (2 * r + 0.02, b.uniform(0.6, 0.95)) if kind == "rack" else (1.5 * r + 0.02, 0.5)
    for sign in (-0.75, 0.75):  # axles, and what carries the deck on them
        b.rod(cart, [sign * x, -aside, r], [sign * x, aside, r], 0.15 * r, metal)
        b.box(cart, [0.03, 0.4 * y, (deck - r) / 2], [sign * x, 0, (deck + r) / 2], metal)
    b.box(cart, [x, y, 0.012], [0, 0, deck], other)
    deck += 0.012
    if kind == "rack":
        shelves = int(b.rng.integers(1, 3))
        levels = deck + (top - deck) * np.arange(1, shelves + 1) / shelves
        for px in (-0.95, 0.95):
            for py in (-0.9, 0.9):
                b.rod(cart, [px * x, py * y, deck], [px * x, py * y, top], 0.014, metal)
        for z in levels:
            b.box(cart, [x, y, 0.01], [0, 0, z], look)
        if b.chance(0.6):
            box = b.body(cart, [0, y - 0.01, top - 0.14], stem="drawer")
            b.slide(box, [0, 1, 0], 0.0, 1.3 * y)
            inside = (0.0, -0.9 * y, 0.0)
            parts.open_box(b, box, 0.85 * x - 0.013, 0.9 * y, 0.11, other, 0.008, inside)
            facing = b.body(box, [0, 0, 0.06], turn([0, 0, 1], np.pi / 2))
            parts.handle(b, facing, b.pick(["bar", "bow", "knob"]), 0, 0, 0, x, metal, False)
            for px in (-0.85, 0.85):
                b.box(cart, [0.012, 0.9 * y, 0.07], [px * x, 0, top - 0.08], look)
        for py in (-0.8, 0.8):
            b.rod(cart, [-x, py * y, top], [-1.15 * x, py * y, top + 0.12], 0.012, metal)
        b.rod(
            cart, [-1.15 * x, -0.8 * y, top + 0.12], [-1.15 * x, 0.8 * y, top + 0.12], 0.014, other
        )
        below = 0.4 * ((top - deck) / shelves - 0.16)  # what fits under a drawer, bottles too
        for z in [deck, *(levels + 0.01)]:
            at = [b.uniform(-0.6, 0.6) * x, b.uniform(-0.3, 0.3) * y, z]
            size = b.uniform(0.6, 1.1) * y if z > top else min(0.8 * y, below)
            if b.chance(0.6) and size > 0.04:
                thing(b, b.body(cart, at), size)
    else:
        tray = cart
        if kind == "tipper":
            tray = b.body(cart, [x, 0, deck], stem="tray")
            b.hinge(tray, [0, 1, 0], 0.0, b.uniform(0.8, 1.2))
        middle = (0.0, 0.0, deck) if tray is cart else (-x, 0.0, 0.002)
        parts.open_box(b, tray, x, y, b.uniform(0.1, 0.25), look, 0.012, middle)
        if b.chance(0.6):
            thing(b, b.body(tray, np.add(middle, [0, 0, 0.013])), 0.9 * y)
        pull = b.body(cart, [-x - 0.01, 0, deck - 0.02], stem="pull")
        b.hinge(pull, [0, 1, 0], -0.1, 1.1, rest=b.uniform(0.0, 1.0))
        long = b.uniform(0.4, 0.7)
        b.rod(pull, [0, 0, 0], [-long, 0, 0], 0.014, metal)
        b.rod(pull, [-long, -0.1, 0], [-long, 0.1, 0], 0.018, other)
    reach = x + 0.4
    return Layout("floor", (0, 0, 0.5 * top), 0.75 * (x + top), reach, reach, np.pi)
