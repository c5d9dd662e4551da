"""Kitchen and bathroom things: lids that lift, caps that turn, pumps, kettles, bins."""

from __future__ import annotations

import numpy as np

from fpt_ros.data.scenes import parts, shapes
from fpt_ros.data.scenes.builder import Body, SceneBuilder, turn
from fpt_ros.data.scenes.layout import Layout
from fpt_ros.data.scenes.things import bottle_profile, open_profile, thing


def _beside(b: SceneBuilder, clear: float) -> None:
    """A few still things around."""
    for _ in range(int(b.rng.integers(0, 4))):
        a, far = b.uniform(0, 2 * np.pi), clear * b.uniform(1.2, 2.2) + 0.06
        thing(b, b.body(None, [far * np.cos(a), far * np.sin(a), 0]), b.uniform(0.06, 0.14))


def _knob_on(b: SceneBuilder, body: Body, z: float, size: float, look: str) -> None:
    """A grip on top of a lid."""
    if b.chance(0.6):
        b.rod(body, [0, 0, z], [0, 0, z + 0.7 * size], 0.35 * size, look, rounded=False)
        b.ball(body, [size * 0.7, size * 0.7, size * 0.45], [0, 0, z + size], look)
    else:
        for sign in (-1, 1):
            b.rod(body, [0, sign * size, z], [0, sign * size, z + size], 0.2 * size, look)
        b.rod(body, [0, -size, z + size], [0, size, z + size], 0.25 * size, look)


def _pot(b: SceneBuilder) -> float:
    """A pot or jar; its lid lifts off, or tips up at one side."""
    r, h = b.uniform(0.05, 0.14), b.uniform(0.05, 0.18)
    root = b.body(None, quat=turn([0, 0, 1], b.uniform(0, 2 * np.pi)))
    shell = b.material(
        b.pick(["brushed", "plain", "any"]), b.pick(["metal", "any", "vivid", "dark"])
    )
    lid_look = shell if b.chance(0.6) else b.material(b.pick(["plain", "wood", "brushed"]))
    grip = b.material("plain", b.pick(["dark", "metal", "wood"]))
    b.mesh(root, *shapes.lathe(open_profile(b, r, h, r * b.uniform(0.75, 1.0)), 32), shell)
    for sign in (-1, 1) if b.chance(0.7) else ():
        y = sign * r * 1.2
        for x in (-0.3, 0.3):
            b.rod(root, [x * r, sign * r * 0.98, 0.8 * h], [x * r, y, 0.8 * h], 0.006, grip)
        b.rod(root, [-0.3 * r, y, 0.8 * h], [0.3 * r, y, 0.8 * h], 0.006, grip)
    tips = b.chance(0.4)
    lid = b.body(root, [-r if tips else 0, 0, h], stem="lid")
    if tips:
        b.hinge(lid, [0, -1, 0], 0.0, 1.6)
    else:
        b.slide(lid, [0, 0, 1], 0.0, b.uniform(0.6, 1.2) * r + 0.05)
    cap = b.body(lid, [r if tips else 0, 0, 0])
    rise = r * b.uniform(0.03, 0.35)
    profile = [[0, 0], [1.04 * r, 0], [1.04 * r, 0.006], [0.7 * r, 0.006 + 0.8 * rise]]
    b.mesh(cap, *shapes.lathe(np.array([*profile, [0, 0.006 + rise]]), 32), lid_look)
    _knob_on(b, cap, 0.006 + 0.95 * rise, r * b.uniform(0.12, 0.25), grip)
    return max(r, 0.7 * h)


def _screw_cap(b: SceneBuilder) -> float:
    """A bottle or jar whose cap turns and then rises."""
    r, h = b.uniform(0.025, 0.06), b.uniform(0.1, 0.28)
    root = b.body()
    look = b.material(b.pick(["label", "plain", "any"]))
    profile = bottle_profile(b, r, h)
    b.mesh(root, *shapes.lathe(profile, 28), look)
    neck = float(profile[-2, 0])
    cap = b.body(root, [0, 0, h - 0.01], stem="cap")
    cap_r, cap_h = neck * b.uniform(1.1, 1.4), b.uniform(0.012, 0.03)
    b.hinge(cap, [0, 0, 1], -2.0, 2.0)
    top = b.body(cap, stem="cap")
    b.slide(top, [0, 0, 1], 0.0, b.uniform(0.03, 0.08))
    colour = b.material(b.pick(["plain", "brushed"]), b.pick(["vivid", "dark", "light", "metal"]))
    b.rod(top, [0, 0, 0], [0, 0, cap_h], cap_r, colour, rounded=False)
    for k in range(10 if b.chance(0.7) else 0):
        a = 2 * np.pi * k / 10
        x, y = cap_r * np.cos(a), cap_r * np.sin(a)
        b.rod(top, [x, y, 0], [x, y, cap_h], cap_r * 0.12, colour)
    return 0.55 * h


def _pump(b: SceneBuilder) -> float:
    """A soap dispenser: the head goes down and turns."""
    r, h = b.uniform(0.025, 0.05), b.uniform(0.09, 0.18)
    root = b.body()
    look = b.material(b.pick(["label", "plain", "gradient"]))
    b.mesh(root, *shapes.lathe(bottle_profile(b, r, h), 28), look)
    metal = b.material("plain", b.pick(["metal", "light", "dark"]))
    spin = b.body(root, [0, 0, h], stem="pump")
    b.hinge(spin, [0, 0, 1], -1.5, 1.5, rest=b.uniform(-1, 1))
    head = b.body(spin, stem="pump")
    stroke = b.uniform(0.012, 0.03)
    b.slide(head, [0, 0, 1], -stroke, 0.0)
    b.rod(head, [0, 0, -stroke * 0.5], [0, 0, stroke + 0.012], 0.005, metal, rounded=False)
    z = stroke + 0.014
    b.rod(head, [-0.008, 0, z], [0.03 + 0.3 * r, 0, z - b.uniform(0, 0.006)], 0.006, metal)
    return 0.6 * h


def _kettle(b: SceneBuilder) -> float:
    """A kettle or coffee pot with a hinged lid and a switch."""
    r, h = b.uniform(0.06, 0.1), b.uniform(0.12, 0.22)
    root = b.body(None, quat=turn([0, 0, 1], b.uniform(-1.5, 1.5)))
    shell = b.material(b.pick(["brushed", "plain"]), b.pick(["metal", "light", "dark", "vivid"]))
    grip = shell if b.chance(0.3) else b.material("plain", b.pick(["dark", "light"]))
    top = r * b.uniform(0.55, 0.85)
    b.mesh(
        root, *shapes.lathe(np.array([[0, 0], [r, 0], [r, 0.1 * h], [top, h], [0, h]]), 32), shell
    )
    b.rod(root, [top * 0.8, 0, h * 0.8], [r * 1.35, 0, h * 1.0], 0.2 * r, shell)
    a, c = [-top, 0, h * 0.95], [-r * 1.7, 0, h * 0.9]
    d, e = [-r * 1.6, 0, h * 0.3], [-r * 0.95, 0, h * 0.2]
    for p, q in ((a, c), (c, d), (d, e)):
        b.rod(root, p, q, 0.011, grip)
    lid = b.body(root, [-top * 0.95, 0, h], stem="lid")
    b.hinge(lid, [0, -1, 0], 0.0, 1.7)
    b.rod(lid, [top * 0.95, 0, 0], [top * 0.95, 0, 0.012], top, grip, rounded=False)
    _knob_on(b, b.body(lid, [top * 0.95, 0, 0]), 0.012, 0.014, grip)
    if b.chance(0.5):
        switch = b.body(root, [-r * 1.65, 0, h * 0.32], stem="switch")
        b.hinge(switch, [0, 1, 0], -0.5, 0.5, rest=0.4)
        b.box(switch, [0.02, 0.012, 0.004], [-0.015, 0, 0], b.material("plain", "vivid"))
    b.rod(root, [0, 0, 0], [0, 0, 0.015], r * 1.1, grip, rounded=False)
    return 0.7 * h


def _toaster(b: SceneBuilder) -> float:
    """A box with a sliding lever, slots, a dial."""
    x, y, z = b.uniform(0.08, 0.14), b.uniform(0.1, 0.17), b.uniform(0.09, 0.13)
    root = b.body(None, quat=turn([0, 0, 1], b.uniform(-0.8, 0.8)))
    shell = b.material(b.pick(["plain", "brushed"]), b.pick(["metal", "light", "dark", "vivid"]))
    dark = b.material("plain", "dark")
    outline = shapes.rounded_rectangle(x, y, 0.3 * x)
    b.mesh(root, *shapes.prism(outline, 2 * z * 0.8), shell, smooth=False)
    for sign in (-1, 1):
        b.box(root, [0.011, y * 0.75, 0.002], [sign * 0.35 * x, 0, 1.6 * z], dark)
        bread = b.body(root, [sign * 0.35 * x, 0, 1.6 * z], stem="bread")
        if b.chance(0.4):
            b.slide(bread, [0, 0, 1], -0.04, 0.03, rest=b.uniform(-0.04, 0.03))
            b.box(bread, [0.009, y * 0.6, 0.03], [0, 0, 0], b.material("cloudy", "carton"))
    b.box(root, [0.004, 0.007, z * 0.55], [x, 0, 0.85 * z], dark)
    lever = b.body(root, [x, 0, 0.85 * z], stem="lever")
    b.slide(lever, [0, 0, 1], -0.5 * z, 0.5 * z, rest=0.45 * z)
    b.box(lever, [0.012, 0.022, 0.006], [0.012, 0, 0], dark if b.chance(0.5) else shell)
    dial = b.body(root, [x, 0.5 * y, 0.5 * z], stem="knob")
    b.hinge(dial, [1, 0, 0], -2.2, 2.2, rest=b.uniform(-1, 1))
    b.rod(dial, [0, 0, 0], [0.014, 0, 0], 0.016, dark, rounded=False)
    b.box(dial, [0.0015, 0.002, 0.006], [0.015, 0, 0.008], b.material("plain", "light"))
    return 1.3 * y


def kitchenware(b: SceneBuilder) -> Layout:
    """Pots with lids, screw caps, pumps, kettles, toasters."""
    makers = (_pot, _pot, _screw_cap, _pump, _kettle, _toaster)
    size = makers[int(b.rng.integers(len(makers)))](b)
    _beside(b, size)
    radius = 1.3 * size
    return Layout("table", (0, 0, 0.7 * size), radius, radius + 0.1, radius + 0.1, np.pi)


def bin_with_lid(b: SceneBuilder) -> Layout:
    """A waste bin: round or square, its lid tips up, or swings both ways; a pedal."""
    h, r = b.uniform(0.3, 0.75), b.uniform(0.12, 0.22)
    root = b.body()
    shell = b.material(
        b.pick(["plain", "brushed", "any"]), b.pick(["metal", "light", "dark", "grey", "vivid"])
    )
    lid_look = shell if b.chance(0.5) else b.material("plain")
    is_round = b.chance(0.5)
    if is_round:
        b.mesh(root, *shapes.lathe(open_profile(b, r, h, r * b.uniform(0.75, 1.0)), 32), shell)
    else:
        parts.open_box(b, root, r, r * b.uniform(0.8, 1.0), h, shell, 0.008)
    swing = b.chance(0.25)
    lid = b.body(root, [0 if swing else -r, 0, h + (0.08 if swing else 0)], stem="lid")
    b.hinge(lid, [0, -1, 0], -0.8 if swing else 0.0, 0.8 if swing else 1.5)
    x = 0 if swing else r
    if swing:
        b.box(lid, [r * 0.7, r * 0.75, 0.005], [0, 0, 0], lid_look)
        for sign in (-1, 1):
            b.box(root, [r, 0.1 * r, 0.05], [0, sign * r * 0.88, h + 0.05], shell)
            b.box(root, [0.13 * r, r * 0.8, 0.05], [sign * r * 0.87, 0, h + 0.05], shell)
    elif is_round:
        rise = r * b.uniform(0.05, 0.35)
        profile = np.array(
            [
                [0, 0],
                [1.03 * r, 0],
                [1.03 * r, 0.01],
                [0.75 * r, 0.8 * rise + 0.01],
                [0, rise + 0.01],
            ]
        )
        b.mesh(lid, *shapes.lathe(profile, 32), lid_look, pos=[x, 0, 0])
    else:
        b.box(lid, [1.02 * r, 1.02 * r, 0.012], [x, 0, 0.012], lid_look)
    if b.chance(0.5):
        pedal = b.body(root, [r * 0.95, 0, 0.03], stem="pedal")
        b.hinge(pedal, [0, 1, 0], -0.25, 0.25)
        b.box(pedal, [0.04, 0.05, 0.005], [0.04, 0, 0], b.material("plain", "dark"))
    return Layout("floor", (0, 0, 0.55 * h), 0.6 * (h + r), r + 0.3, r + 0.1, 1.3, r + 0.1)
