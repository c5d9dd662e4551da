"""What closes an opening or a way: hatches, flaps, gates, barriers, folding screens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fpt_ros.data.scenes import parts, shapes
from fpt_ros.data.scenes.builder import Body, SceneBuilder, turn
from fpt_ros.data.scenes.families.mechanical import UPRIGHT, metal_look, yawed
from fpt_ros.data.scenes.layout import Layout


def _lying_hatch(b: SceneBuilder) -> Layout:
    """A hatch in a low curb or in a slope, of one leaf or two that meet in the middle."""
    x, y = b.uniform(0.22, 0.45), b.uniform(0.22, 0.5)
    root, rim = b.body(), b.uniform(0.02, 0.05)
    look = b.material(b.pick(["planks", "wood", "plain", "brushed"]))
    frame, metal = b.material(b.pick(["plain", "cloudy", "wood"])), metal_look(b)
    place, rise = root, b.uniform(0.02, 0.12)
    focus = 0.1
    if b.chance(0.45):
        slope = b.uniform(0.25, 0.8)
        run, high = (x + 0.1) * np.cos(slope), (x + 0.1) * np.sin(slope)
        outline = [[-run, 0], [run, 0], [-run, 2 * high]]
        wedge, at = shapes.prism(outline, 2 * y + 0.2), [0, y + 0.1, 0]
        b.mesh(root, *wedge, b.material(), pos=at, quat=UPRIGHT, smooth=False)
        place = b.body(root, [0, 0, high], turn([0, 1, 0], slope))
        focus = high + 0.1
    for sign in (-1, 1):
        b.box(place, [x, rim, rise / 2], [0, sign * (y - rim), rise / 2], frame)
        b.box(place, [rim, y - 2 * rim, rise / 2], [sign * (x - rim), 0, rise / 2], frame)
    b.box(place, [x - rim, y - rim, 0.002], [0, 0, 0.002], b.material("plain", "dark"))
    t = b.uniform(0.006, 0.018)
    sides = b.pick(["far", "far", "left", "right", "both"])
    for side in ["left", "right"] if sides == "both" else [sides]:
        sign = {"left": 1, "right": -1, "far": 0}[side]
        half = np.array([x, y / 2 - 0.002 if sides == "both" else y, t])
        hinge_at = np.array([-x, 0, rise] if sign == 0 else [0, sign * y, rise])
        leaf = b.body(place, hinge_at, stem="leaf")
        b.hinge(leaf, [-sign, 0, 0] if sign else [0, -1, 0], 0.0, b.uniform(1.4, 2.0))
        inward = np.array([1.0, 0, 0]) if sign == 0 else np.array([0, -sign, 0.0])
        b.box(leaf, half, inward * half + [0, 0, t], look)
        for k in (-0.6, 0.6):  # hinge straps
            strap = np.abs(inward) * half * 0.7 + (1 - np.abs(inward)) * 0.018
            across = (1 - np.abs(inward)) * half * k
            at = inward * half * 0.7 + across * [1, 1, 0] + [0, 0, 2 * t]
            b.box(leaf, [*strap[:2], 0.003], at, metal)
        grip = b.body(leaf, 1.5 * inward * half + [0, 0, 2 * t])
        if b.chance(0.5):
            b.mesh(grip, *shapes.torus(0.04, 0.007), metal, pos=[0, 0, 0.006])
        else:
            flat = b.body(grip, quat=turn([0, 1, 0], -np.pi / 2))
            parts.handle(b, flat, b.pick(["bar", "bow"]), 0, 0, 0, 0.3, metal, sign == 0)
    free = 1.9 * np.array([x, y]) + 0.05  # leaves lean beyond their hinges
    return Layout(
        "floor", (0, 0, focus + 0.1), 1.1 * max(x, y), x + 0.2, float(free[1]), 1.3, float(free[0])
    )


def _standing_hatch(b: SceneBuilder) -> Layout:
    """A mail slot, or a garage door that goes up and over."""
    garage = b.chance(0.5)
    lowest, largest = ([0.9, 0.8], [1.3, 1.05]) if garage else ([0.1, 0.025], [0.2, 0.06])
    y, z = b.rng.uniform(lowest, largest)
    root = b.body()
    bottom, deep = (0.0, 0.08) if garage else (0.5, 0.012)
    wall = b.material(b.pick(["plain", "wood", "planks", "cloudy", "any"]))
    look = b.material(b.pick(["plain", "brushed", "planks", "wood"]))
    frame = wall if b.chance(0.3) else b.material("plain")
    # the wall or door around, the frame of the opening, the dark behind
    beyond, above = b.uniform(1.5, 3.5) * min(y, 0.3), b.uniform(1.5, 3.0) * min(z, 0.25)
    top, bar = bottom + 2 * z, 0.08 * min(y, z)
    for sign in (-1, 1):
        side = [-deep, sign * (y + beyond), (top + above) / 2]
        b.box(root, [deep, beyond, (top + above) / 2], side, wall)
        b.box(root, [deep * 1.3, bar, z], [-deep, sign * (y + bar), bottom + z], frame)
    b.box(root, [deep, y, above / 2], [-deep, 0, top + above / 2], wall)
    if bottom:
        b.box(root, [deep, y, bottom / 2], [-deep, 0, bottom / 2], wall)
    b.box(root, [deep * 1.3, y + 2 * bar, bar], [-deep, 0, top + bar], frame)
    behind = -2.6 * deep - (2.2 if garage else 1.2) * z
    back = [behind, 0, (top + above) / 2]
    b.box(root, [0.005, y + beyond, back[2]], back, b.material("plain", "dark"))
    t, half_y = 0.3 * deep, y - 0.003
    if garage:  # its middle rises behind the lintel while it tips, and ends below it
        carriage = b.body(root, [-2.3 * deep - t, 0, z], stem="carriage")
        lift = b.slide(carriage, [0, 0, 1], 0.0, z, listed=False)
        panel = b.body(carriage, stem="panel")
        b.hinge(panel, [0, -1, 0], 0.0, 1.45, companions=((lift, 0.95 * z / 1.45),))
        for k in range(int(b.rng.integers(2, 6))):
            groove = [1.05 * t, half_y, 0.006]
            b.box(panel, groove, [0, 0, (k / 2.5 - 0.8) * z], b.material("plain", "dark"))
    else:
        panel = b.body(root, [-t, 0, top], stem="panel")
        b.hinge(panel, [0, -1, 0], 0.0, b.uniform(1.0, 1.4))
    middle = 0.0 if garage else -z
    b.box(panel, [t, half_y, z - 0.003], [0, 0, middle], look)
    grip = b.pick(["bar", "bow", "knob", "lip"]) if garage else "lip"
    parts.handle(b, panel, grip, t, 0, middle - 0.6 * z, 1.2 * y, metal_look(b), False)
    reach = (2.3 if garage else 1.6) * max(y, z)
    return Layout("floor", (0, 0, bottom + z), reach, 0.4, y + beyond, 0.9, -behind, opening=True)


def hatch(b: SceneBuilder) -> Layout:
    """Floor hatches, cellar doors, mail slots, up-and-over doors."""
    return _lying_hatch(b) if b.chance(0.4) else _standing_hatch(b)


_PANELS = ("pickets", "slats", "board", "panel")


def _panel(
    b: SceneBuilder,
    body: Body,
    kind: str,
    length: float,
    low: float,
    high: float,
    look: str,
) -> None:
    """A gate or screen panel in x = 0, from the origin along y to `length` (either sign)."""
    t, half_y, half_z = b.uniform(0.01, 0.02), abs(length) / 2, (high - low) / 2
    centre = np.array([0.0, length / 2, (low + high) / 2])
    if kind in ("board", "panel"):
        b.box(body, [t, half_y, half_z], centre, look)
        if kind == "panel":
            b.box(body, [1.2 * t, 0.8 * half_y, 0.85 * half_z], centre, b.material())
        return
    bar = b.uniform(0.015, 0.03)
    across = 2 if kind == "slats" else 1  # the axis along which the bars are set out
    along = 3 - across
    half = np.array([t, half_y, half_z])
    offset = half_y - bar if kind == "slats" else 0.65 * half_z
    for place in (-offset, offset):  # two bars that carry the others
        carrier = np.where(np.arange(3) == along, bar, half)
        b.box(body, carrier, centre + place * np.eye(3)[along], look)
    count = int(np.clip(half[across] / b.uniform(0.03, 0.08), 3, 9))
    width = half[across] / count * b.uniform(0.4, 0.8)
    for place in np.linspace(-1, 1, count) * (half[across] - width):
        thin = np.where(np.arange(3) == across, width, half * [0.8, 1, 1])
        b.box(body, thin, centre + place * np.eye(3)[across], look)


def _garden_gate(b: SceneBuilder) -> Layout:
    """One or two leaves between posts, fences beside; also low swing doors hung above the floor."""
    saloon = b.chance(0.3)
    width, high = b.uniform(0.7, 1.2), b.uniform(0.6, 1.2)
    low = b.uniform(0.35, 0.5) if saloon else b.uniform(0.03, 0.1)
    high += 0.4 if saloon else 0.0
    kind = b.pick(["slats", "panel"]) if saloon else b.pick(_PANELS)
    root = b.body()
    look = b.material(b.pick(["wood", "plain", "planks"]))
    post_look = look if b.chance(0.5) else b.material()
    metal, thick = metal_look(b), b.uniform(0.03, 0.07)
    double = saloon or b.chance(0.35)
    top = high + b.uniform(0.03, 0.3)
    fence = b.pick([*_PANELS, "none"])
    for sign in (-1, 1):
        y = sign * (width / 2 + thick)
        b.box(root, [thick, thick, top / 2], [0, y, top / 2], post_look)
        if b.chance(0.5):
            b.ball(root, 1.2 * thick, [0, y, top], post_look)
        if fence != "none":
            aside = b.body(root, [0, y + sign * thick, 0])
            _panel(b, aside, fence, sign * b.uniform(0.4, 0.9), 0.0, 0.9 * high, post_look)
    outward = b.uniform(1.2, 1.6)
    both_ways = saloon or b.chance(0.4)
    for sign in [-1, 1] if double else [1 if b.chance(0.5) else -1]:
        leaf = b.body(root, [0, sign * (width / 2 - 0.02), 0], stem="leaf")
        b.hinge(leaf, [0, 0, sign], -outward if both_ways else 0.0, outward)
        length = -sign * (width / 2 - 0.024 if double else width - 0.04)
        _panel(b, leaf, kind, length, low, high, look)
        for z in (0.2, 0.8):
            middle = low + z * (high - low)
            b.rod(leaf, [0, 0, middle - 0.04], [0, 0, middle + 0.04], 0.018, metal, rounded=False)
            if b.chance(0.5):
                b.box(leaf, [0.022, 0.2 * abs(length), 0.015], [0, 0.2 * length, middle], metal)
        grip = b.pick(["bar", "knob", "bow", "none"])
        y = length + 0.02 * sign  # on the outermost picket or stile
        parts.handle(b, leaf, grip, 0.008, y, 0.3 * low + 0.7 * high, 0.3, metal, True)
    return Layout("floor", (0, 0, 0.55 * high), 0.75 * width + 0.2, 0.7, width, 1.0, width)


def _turnstile(b: SceneBuilder) -> Layout:
    """Arms that turn about a post, or on a slanted axle at the edge of a cabinet."""
    root, metal, base = yawed(b, 0.5), metal_look(b), b.material()
    reach, high, thick = b.uniform(0.35, 0.6), b.uniform(0.75, 1.05), b.uniform(0.015, 0.03)
    slanted = b.chance(0.5)
    if slanted:
        half = np.array([b.uniform(0.08, 0.15), b.uniform(0.08, 0.2), high / 2])
        b.box(root, half, [-half[0] - 0.05, 0, high / 2], base)
        b.rod(root, [-0.06, 0, high - 0.06], [0, 0, high], 0.07, base)
    else:
        b.rod(root, [0, 0, 0], [0, 0, high], 2 * thick, base, rounded=False)
        b.rod(root, [0, 0, 0], [0, 0, 0.02], 0.15, base, rounded=False)
    holder = b.body(root, [0, 0, high], turn([0, 1, 0], np.pi / 4 if slanted else 0.0))
    arms = b.body(holder, stem="arms")
    b.hinge(arms, [0, 0, 1], -2.5, 2.5, rest=b.uniform(-2, 2))
    count = 3 if slanted else int(b.rng.integers(2, 5))
    lean = 0.955 if slanted else np.pi / 2
    b.rod(arms, [0, 0, -0.02], [0, 0, 0.06], 3 * thick, metal, rounded=False)
    rows = 1 if slanted else int(b.rng.integers(1, 4))
    levels = [np.array([0, 0, 0.03 - 0.22 * k]) for k in range(rows)]
    for k in range(count):
        a = 2 * np.pi * k / count
        out = np.array([np.sin(lean) * np.cos(a), np.sin(lean) * np.sin(a), np.cos(lean)])
        for level in levels:
            b.rod(arms, level, reach * out + level, thick, metal)
        if len(levels) > 1:
            b.rod(arms, reach * out + levels[0], reach * out + levels[-1], thick, metal)
    return Layout("floor", (0, 0, 0.8 * high), 1.1 * reach + 0.15, 0.8, 0.7, np.pi)


def _barrier(b: SceneBuilder) -> Layout:
    """A striped arm that rises about one end, with a counterweight and a post to lie on."""
    root, side = yawed(b, 0.3), 1 if b.chance(0.5) else -1
    size = 1.0 if b.chance(0.6) else b.uniform(0.15, 0.4)
    length, high = b.uniform(0.9, 2.0) * size, b.uniform(0.7, 1.0) * size
    half = size * b.rng.uniform([0.1, 0.1], [0.18, 0.16])
    y0, thick = -side * length / 2, size * b.uniform(0.025, 0.05)
    b.box(root, [*half, high / 2 + 0.05 * size], [0, y0, high / 2 + 0.05 * size], b.material())
    arm = b.body(root, [half[0] + thick, y0, high], stem="arm")
    rest = 0.0 if b.chance(0.6) else b.uniform(0.0, 1.3)
    b.hinge(arm, [side, 0, 0], 0.0, b.uniform(1.1, 1.45), rest=rest)
    looks = [b.material("plain", b.pick(["vivid", "dark"])), b.material("plain", "light")]
    bands = int(b.rng.integers(1, 9))
    for k in range(bands):
        middle = side * (k + 0.5) / bands * length
        b.box(arm, [thick / 2, length / bands / 2, thick], [0, middle, 0], looks[k % 2])
    b.box(arm, [thick / 2, 0.1 * size, thick], [0, -0.1 * side * size, 0], looks[0])
    b.box(arm, [thick * 0.8, 0.05 * size, 2 * thick], [0, -0.2 * side * size, 0], looks[0])
    b.rod(arm, [-thick, 0, 0], [thick, 0, 0], 1.6 * thick, metal_look(b), rounded=False)
    if b.chance(0.6):
        at = [half[0] + thick, side * (length / 2 - 0.05 * size), (high - thick) / 2]
        b.box(root, [thick, 0.03 * size, (high - thick) / 2], at, b.material())
    reach = length / 2 + 0.1
    support = "floor" if size == 1.0 else "table"
    focus = (0, y0 / 2, high + 0.1 * length)
    return Layout(support, focus, 0.8 * reach + 0.2 * size, 0.4, reach, 0.9, 0.3 * size)


def _bollards(b: SceneBuilder) -> Layout:
    """Posts in a row that sink into the ground or fold down."""
    count, pitch = int(b.rng.integers(1, 5)), b.uniform(0.35, 0.6)
    r, high = b.uniform(0.05, 0.11), b.uniform(0.45, 0.9)
    folds, root = b.chance(0.45), yawed(b, 0.3)
    look = b.material(b.pick(["plain", "brushed", "stripes"]), b.pick(["vivid", "metal", "any"]))
    band, foot = b.material("plain", b.pick(["light", "vivid", "dark"])), metal_look(b)
    for k in range(count):
        place = b.body(root, [0, (k - (count - 1) / 2) * pitch, 0])
        b.rod(place, [0, 0, 0], [0, 0, 0.012], 1.5 * r, foot, rounded=False)
        post = b.body(place, [0, 0, 0.012 + r if folds else 0.0], stem="post")
        if folds:
            b.hinge(post, [0, 1, 0], 0.0, 1.5)
            for sign in (-1, 1):
                b.box(place, [0.6 * r, 0.1 * r, r], [0, 1.1 * sign * r, r], foot)
        else:
            down = high * b.uniform(0.7, 0.95)
            b.slide(post, [0, 0, 1], -down, 0.0)
        top = high * b.uniform(0.95, 1.0)
        b.rod(post, [0, 0, 0], [0, 0, top], r, look, rounded=b.chance(0.4))
        for z in (0.7, 0.85):
            b.rod(post, [0, 0, z * top], [0, 0, z * top + 0.04], 1.03 * r, band, rounded=False)
    half = count * pitch / 2
    return Layout("floor", (0.1, 0, 0.4 * high), 0.3 + 0.7 * half, 1.0, half, 1.2, 0.5)


def _screen(b: SceneBuilder) -> Layout:
    """Panels joined edge to edge that fold to and fro, each for itself or all together."""
    count, width, high = int(b.rng.integers(2, 5)), b.uniform(0.3, 0.5), b.uniform(0.8, 1.6)
    if b.compact or b.chance(0.3):
        width, high = 0.4 * width, 0.3 * high
    kind, look, metal = b.pick(_PANELS), b.material(), metal_look(b)
    fold, together = b.uniform(0.6, 1.6), b.chance(0.4)
    panel = b.body(None, [0, -0.5 * count * width, 0], turn([0, 0, 1], -b.uniform(0.0, fold / 2)))
    low = b.uniform(0.01, 0.05) * high
    made: list[tuple[Body, int, NDArray[np.float64]]] = []
    for k in range(count):
        _panel(b, panel, kind, width, low, high, look)
        for y in (0.06, 0.94):
            b.box(panel, [0.008, 0.03 * width, low / 2], [0, y * width, low / 2], look)
        if k == count - 1:
            break
        edge = b.body(panel, [0, width + 0.012, 0], stem="panel")
        sign = 1 if k % 2 == 0 else -1
        axle = np.array([-0.022 * sign, -0.006, 0.0])  # at the faces that meet
        for z in (0.15, 0.85):
            start, end = (np.add(axle, [0, 0, (z + dz) * high]) for dz in (-0.03, 0.03))
            b.rod(edge, start, end, 0.012, metal)
        made.append((edge, sign, axle))
        panel = edge
    others: tuple[tuple[str, float], ...] = ()
    for edge, sign, axle in reversed(made[1:]):
        listed = not together
        joint = b.hinge(edge, [0, 0, sign], 0.0, 2.3, pos=axle, rest=fold, listed=listed)
        others += ((joint, 1.0),) if together else ()
    edge, sign, axle = made[0]
    b.hinge(edge, [0, 0, sign], 0.0, 2.3, pos=axle, rest=fold, companions=others)
    long = count * width
    support = "floor" if high > 0.6 else "table"
    return Layout(
        support, (0, 0, high / 2), 0.6 * max(long, high), 0.6 * long, long / 2, 1.2, long / 2
    )


def gate(b: SceneBuilder) -> Layout:
    """Garden gates, swing doors, turnstiles, barrier arms, bollards, folding screens."""
    makers = (_garden_gate, _garden_gate, _turnstile, _barrier, _bollards, _screen)
    return makers[int(b.rng.integers(len(makers)))](b)
