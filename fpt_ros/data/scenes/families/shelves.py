"""Things on shelves, hooks and turntables; plugs and rings; chairs and other floor things."""

from __future__ import annotations

import numpy as np

from fpt_ros.data.scenes import parts, shapes
from fpt_ros.data.scenes.builder import Body, SceneBuilder, turn
from fpt_ros.data.scenes.families.furniture import carcass
from fpt_ros.data.scenes.families.loose import scatter
from fpt_ros.data.scenes.layout import Layout
from fpt_ros.data.scenes.things import thing


def bookshelf(b: SceneBuilder) -> Layout:
    """Shelf boards with books and boxes that can be pulled out or tipped forward."""
    width, depth = b.uniform(0.4, 0.9), b.uniform(0.18, 0.3)
    rows, pitch = int(b.rng.integers(1, 4)), b.uniform(0.22, 0.32)
    root = b.body()
    look = b.material(b.pick(["wood", "plain", "any"]))
    t = b.uniform(0.008, 0.015)
    height = rows * pitch + 2 * t
    for sign in (-1, 1):
        b.box(root, [depth / 2, t, height / 2], [-depth / 2, sign * width / 2, height / 2], look)
    if b.chance(0.6):
        b.box(root, [0.004, width / 2, height / 2], [-depth, 0, height / 2], look)
    for row in range(rows + 1):
        half = [depth / 2 - 0.001, width / 2 - t, t]
        b.box(root, half, [-depth / 2, 0, t + row * pitch], look)
    for row in range(rows):
        floor, y = 2 * t + row * pitch, -width / 2 + t
        while y < width / 2 - 0.1:
            if b.chance(0.2):
                y += b.uniform(0.03, 0.15)
                continue
            wide = b.uniform(0.012, 0.05) if b.chance(0.8) else b.uniform(0.08, 0.16)
            if y + wide > width / 2 - t:
                break
            half = [depth * b.uniform(0.3, 0.46), wide / 2 - 0.0008, pitch * b.uniform(0.28, 0.42)]
            book = b.body(root, [-b.uniform(0.005, 0.03), y + wide / 2, floor], stem="book")
            if b.chance(0.7):
                b.slide(book, [1, 0, 0], 0.0, depth * b.uniform(0.5, 0.9))
            else:
                b.hinge(book, [0, 1, 0], 0.0, b.uniform(0.4, 1.2))
            cover = b.material(
                b.pick(["plain", "plain", "label", "weave"]),
                b.pick(["vivid", "muted", "dark", "light", "any"]),
            )
            b.box(book, half, [-half[0], 0, half[2]], cover)
            if b.chance(0.3):
                band = [0.001, half[1] * 0.9, half[2] * 0.08]
                b.box(book, band, [0, 0, half[2] * b.uniform(0.5, 1.6)], b.material("plain"))
            y += wide
    on_wall = b.chance(0.3)
    radius = 0.5 * float(np.hypot(width, height))
    support = "floor" if rows == 3 and not (on_wall or b.compact) else "table"
    return Layout(support, (0, 0, height / 2), radius, 0.35, width / 2, 0.9, depth)


def wall_cupboard(b: SceneBuilder) -> Layout:
    """A cupboard or shelf hung on a wall, above eye height or at it."""
    width, height, depth = b.uniform(0.4, 1.1), b.uniform(0.3, 0.8), b.uniform(0.2, 0.4)
    root = b.body(None, [0, 0, -height / 2])
    carcass(b, root, width, height, depth, ["door", "double", "flap", "drawer", "shelf"])
    radius = 0.5 * float(np.hypot(width, height))
    return Layout("wall", (0, 0, 0), radius, 0.4, width / 2, 1.0, depth)


def _hanging(b: SceneBuilder, parent: Body, at: list[float], size: float) -> None:
    """A mug, tool, key or towel hanging from a hook, free to swing."""
    body = b.body(parent, at, stem="hanging")
    axis = [0, 1, 0] if b.chance(0.4) else [1, 0, 0]
    if axis == [0, 1, 0]:
        b.hinge(body, axis, -1.1, 0.0)
    else:
        b.hinge(body, axis, -0.9, 0.9)
    kind = b.pick(["mug", "tool", "board", "key", "pan"])
    look = b.material(b.pick(["plain", "any", "wood"]))
    if kind == "mug":
        ring = shapes.torus(0.3 * size, 0.05 * size, 18)
        b.mesh(body, *ring, look, pos=[0, 0, -0.25 * size], quat=turn([0, 1, 0], np.pi / 2))
        b.rod(
            body,
            [0, -0.35 * size, -0.75 * size],
            [0, 0.45 * size, -0.75 * size],
            0.35 * size,
            look,
            rounded=False,
        )
    elif kind == "board":
        b.box(body, [0.008, size * 0.5, size * 0.8], [0, 0, -size * 0.8], look)
    else:
        b.rod(body, [0, 0, 0], [0, 0, -size], 0.07 * size, look)
        end = b.material(b.pick(["brushed", "plain"]))
        if kind == "pan":
            b.rod(
                body,
                [-0.02, 0, -1.5 * size],
                [0.02, 0, -1.5 * size],
                0.55 * size,
                end,
                rounded=False,
            )
        elif kind == "tool":
            half = size * b.rng.uniform([0.08, 0.15, 0.1], [0.15, 0.45, 0.35])
            b.box(body, half, [0, 0, -size - half[2]], end)
        else:
            b.ball(body, [0.1 * size, 0.3 * size, 0.3 * size], [0, 0, -1.2 * size], end)


def hook_rail(b: SceneBuilder) -> Layout:
    """A rail or board with hooks and things that swing on them."""
    count, pitch = int(b.rng.integers(1, 6)), b.uniform(0.1, 0.2)
    half = count * pitch / 2 + 0.03
    root = b.body()
    look = b.material(b.pick(["wood", "plain", "brushed"]))
    b.box(root, [0.01, half, b.uniform(0.02, 0.05)], [-0.01, 0, 0], look)
    metal = b.material("plain", "metal")
    for k in range(count):
        y = (k - (count - 1) / 2) * pitch
        reach = b.uniform(0.04, 0.07)
        b.rod(root, [0, y, 0], [reach, y, 0], 0.004, metal)
        b.rod(root, [reach, y, 0], [reach + 0.008, y, 0.02], 0.004, metal)
        if b.chance(0.85):
            _hanging(b, root, [reach * 0.8, y, 0], pitch * b.uniform(0.4, 0.8))
    return Layout("wall", (0, 0, -0.1), max(0.2, half), 0.2, half, 0.9, 0.02)


def turntable(b: SceneBuilder) -> Layout:
    """A disc, tray or stand that turns with everything on it; a fan; a globe."""
    r = b.uniform(0.1, 0.22)
    root = b.body()
    look = b.material(b.pick(["wood", "plain", "any", "stripes"]))
    foot = b.material(b.pick(["plain", "brushed"]))
    h = b.uniform(0.02, 0.12)
    kind = b.pick(["disc", "disc", "fan", "globe"])
    if kind == "disc":
        b.rod(root, [0, 0, 0], [0, 0, h], r * 0.45, foot, rounded=False)
        disc = b.body(root, [0, 0, h], stem="disc")
        b.hinge(disc, [0, 0, 1], -2.5, 2.5, rest=b.uniform(-2, 2))
        b.rod(disc, [0, 0, 0], [0, 0, 0.012], r, look, rounded=False)
        for k in range(int(b.rng.integers(0, 5))):
            a = 2 * np.pi * (k + b.uniform(0, 0.5)) / 5
            at = [0.6 * r * np.cos(a), 0.6 * r * np.sin(a), 0.012]
            thing(b, b.body(disc, at, turn([0, 0, 1], a)), 0.4 * r)
        return Layout("table", (0, 0, h), 1.3 * r, r + 0.1, r + 0.1, np.pi)
    z = r * 1.4 + 0.05
    b.rod(root, [0, 0, 0], [0, 0, 0.015], r * 0.7, foot, rounded=False)
    b.rod(root, [-0.02, 0, 0], [-0.02, 0, z - (0 if kind == "fan" else r)], 0.012, foot)
    head = b.body(root, [0, 0, z], stem="head")
    if kind == "globe":
        b.hinge(head, [0.3, 0, 1], -2.5, 2.5, rest=b.uniform(-2, 2))
        b.ball(head, r, [0, 0, 0], b.material(b.pick(["poster", "stripes", "label"])))
        return Layout("table", (0, 0, z), 1.4 * r, r + 0.1, r + 0.1, np.pi)
    b.hinge(head, [0, 0, 1], -1.0, 1.0, rest=b.uniform(-0.5, 0.5))
    b.mesh(head, *shapes.torus(r, 0.012), look, pos=[0.04, 0, 0], quat=turn([0, 1, 0], np.pi / 2))
    blades = b.body(head, [0.04, 0, 0], stem="blades")
    b.hinge(blades, [1, 0, 0], -2.0, 2.0, rest=b.uniform(-1, 1))
    number = int(b.rng.integers(3, 6))
    blade = b.material("plain", b.pick(["light", "dark", "vivid"]))
    for k in range(number):
        a = 2 * np.pi * k / number
        centre = [0, 0.5 * r * np.cos(a), 0.5 * r * np.sin(a)]
        b.box(blades, [0.004, 0.42 * r, 0.16 * r], centre, blade, quat=turn([1, 0, 0], a))
    b.rod(head, [-0.06, 0, 0], [0.05, 0, 0], 0.2 * r, foot)
    return Layout("table", (0, 0, z), 1.5 * r, r + 0.1, r + 0.1, 1.2)


def plug_board(b: SceneBuilder) -> Layout:
    """Plugs in sockets, pegs in holes, rings on pins: pulled out along their axis, or turned."""
    count, pitch = int(b.rng.integers(1, 6)), b.uniform(0.06, 0.12)
    lying = b.chance(0.5)
    half = count * pitch / 2 + 0.02
    board = b.body(
        None, [0, 0, 0.02 if lying else 0.0], turn([0, 1, 0], -np.pi / 2 if lying else 0.0)
    )
    look = b.material(b.pick(["plain", "wood", "any"]))
    wide = pitch * b.uniform(0.4, 0.9)
    b.box(board, [0.02, half, wide], [-0.02, 0, 0], look)
    kind = b.pick(["plug", "peg", "ring"])
    same = b.material("plain")
    for k in range(count):
        y = (k - (count - 1) / 2) * pitch
        size = pitch * b.uniform(0.25, 0.42)
        colour = same if b.chance(0.4) else b.material(b.pick(["plain", "wood"]))
        if kind != "ring":
            b.rod(
                board,
                [0, y, 0],
                [0.002, y, 0],
                size * 1.1,
                b.material("plain", "dark"),
                rounded=False,
            )
        if b.chance(0.15):
            continue
        piece = b.body(board, [0, y, 0], stem="piece")
        b.slide(piece, [1, 0, 0], 0.0, b.uniform(0.05, 0.15))
        if kind == "plug":
            b.rod(piece, [0, 0, 0], [size * 1.2, 0, 0], size, colour, rounded=False)
            b.rod(piece, [size * 1.2, 0, 0], [size * 2.2, 0, -size * 0.4], size * 0.3, colour)
        elif kind == "peg":
            length = pitch * b.uniform(0.5, 1.5)
            if b.chance(0.5):
                b.rod(piece, [-0.01, 0, 0], [length, 0, 0], size * 0.8, colour, rounded=False)
            else:
                b.box(piece, [length / 2, size * 0.7, size * 0.7], [length / 2, 0, 0], colour)
        else:
            pin = pitch * b.uniform(0.6, 1.6)
            b.rod(board, [0, y, 0], [pin, y, 0], size * 0.3, look)
            ring = shapes.torus(size * 0.8, size * 0.28)
            b.mesh(piece, *ring, colour, pos=[size * 0.3, 0, 0], quat=turn([0, 1, 0], np.pi / 2))
    if lying:
        return Layout("table", (0, 0, 0.03), half, wide + 0.1, half, np.pi)
    return Layout("wall", (0, 0, 0), half, 0.2, half, 0.9, 0.04)


def _chair(b: SceneBuilder, body: Body) -> None:
    """A chair or stool, standing at the origin of the body."""
    look = b.material(b.pick(["wood", "plain", "any"]))
    seat_look = look if b.chance(0.5) else b.material(b.pick(["weave", "plain", "wood"]))
    w, h = b.uniform(0.16, 0.24), b.uniform(0.38, 0.6)
    for sx in (-1, 1):
        for sy in (-1, 1):
            foot = [sx * w * 0.95, sy * w * 0.95, 0]
            b.rod(
                body,
                foot,
                [sx * w * 0.85, sy * w * 0.85, h],
                b.uniform(0.012, 0.022),
                look,
                rounded=False,
            )
    if b.chance(0.6):
        b.box(body, [w, w, 0.018], [0, 0, h], seat_look)
    else:
        b.rod(body, [0, 0, h - 0.015], [0, 0, h + 0.015], w * 1.1, seat_look, rounded=False)
    if b.chance(0.65):
        for sign in (-1, 1):
            b.rod(
                body, [-w * 0.85, sign * w * 0.85, h], [-w, sign * w * 0.85, h + 0.4], 0.014, look
            )
        b.box(body, [0.012, w * 0.9, b.uniform(0.05, 0.16)], [-w * 0.95, 0, h + 0.27], seat_look)


def floor_things(b: SceneBuilder) -> Layout:
    """Chairs, stools, boxes, bins and balls on the floor, to be pushed about."""
    count = int(b.rng.integers(1, 4))
    for k in range(count):
        at = [b.uniform(-0.2, 0.2), (k - (count - 1) / 2) * 0.65, 0.002]
        body = b.loose_body(at, turn([0, 0, 1], b.uniform(0, 2 * np.pi)))
        if b.chance(0.5):
            _chair(b, body)
        elif b.chance(0.4):
            half, high = b.uniform(0.12, 0.25), b.uniform(0.15, 0.35)
            parts.open_box(b, body, half, half * b.uniform(0.7, 1.2), high, b.material())
        else:
            thing(b, body, b.uniform(0.25, 0.5))
    scatter(b, int(b.rng.integers(0, 3)), 0.35, (0.1, 0.25), centre=(0.7, 0.0))
    return Layout("floor", (0.1, 0, 0.25), 0.35 + 0.2 * count, 0.8, 0.4 * count + 0.2, np.pi)
