"""Furniture with drawers and doors: cabinets, chests, wardrobes, latched doors."""

from __future__ import annotations

import numpy as np

from fpt_ros.data.scenes import parts
from fpt_ros.data.scenes.builder import Body, SceneBuilder
from fpt_ros.data.scenes.layout import Layout
from fpt_ros.data.scenes.things import thing


class _Style:
    """Materials and details that one piece of furniture keeps throughout."""

    def __init__(self, b: SceneBuilder) -> None:
        self.carcass = b.material(b.pick(["wood", "plain", "any"]))
        same = b.chance(0.55)
        self.front = self.carcass if same else b.material(b.pick(["wood", "plain", "any"]))
        self.metal = b.material(b.pick(["plain", "brushed"]), "metal")
        self.handle = self.front if b.chance(0.25) else self.metal
        self.handle_kind = b.pick(parts.HANDLES)
        self.framed = b.chance(0.3)
        self.gap = b.uniform(0.001, 0.005)
        self.board = b.uniform(0.007, 0.012)


def _front_panel(
    b: SceneBuilder, body: Body, style: _Style, y: float, z: float, half_y: float, half_z: float
) -> float:
    """The visible board of a drawer or door, rear side at x = 0; return its thickness."""
    t = style.board
    b.box(body, [t, half_y, half_z], [t, y, z], style.front)
    if style.framed and min(half_y, half_z) > 0.06:
        w = 0.2 * min(half_y, half_z)
        for sign in (-1, 1):
            b.box(body, [t * 0.4, half_y, w], [2 * t, y, z + sign * (half_z - w)], style.front)
            side = [2 * t, y + sign * (half_y - w), z]
            b.box(body, [t * 0.4, w, half_z - 2 * w], side, style.front)
    return 2 * t


def _drawer(
    b: SceneBuilder,
    parent: Body,
    style: _Style,
    cell: tuple[float, float, float, float],
    x: float,
    depth: float,
) -> None:
    y0, y1, z0, z1 = cell
    half_y, half_z = (y1 - y0) / 2 - style.gap, (z1 - z0) / 2 - style.gap
    body = b.body(parent, [x, (y0 + y1) / 2, (z0 + z1) / 2], stem="drawer")
    b.slide(body, [1, 0, 0], 0.0, b.uniform(0.55, 0.9) * depth)
    t = _front_panel(b, body, style, 0, 0, half_y, half_z)
    tray = b.material("plain", "light") if b.chance(0.4) else style.carcass
    half_d, inner = depth * 0.46, half_y - 0.012
    height = max(0.03, half_z * b.uniform(0.9, 1.6))
    parts.open_box(b, body, half_d, inner, height, tray, 0.008, (-half_d, 0, -half_z + 0.006))
    if b.chance(0.4) and inner > 0.06:
        filling = b.body(
            body, [-half_d * b.uniform(0.3, 1.4), b.uniform(-0.5, 0.5) * inner, -half_z + 0.015]
        )
        thing(b, filling, min(0.12, inner, height))
    if style.handle_kind == "lip":
        parts.handle(b, body, "lip", t, 0, half_z * 0.95, 2 * half_y, style.handle, False)
    else:
        z = half_z * b.uniform(0.3, 0.7) if half_z > 0.1 and b.chance(0.5) else 0.0
        pairs = [-0.5 * half_y, 0.5 * half_y] if half_y > 0.25 and b.chance(0.3) else [0.0]
        for y in pairs:
            span = 2 * half_y / len(pairs)
            parts.handle(b, body, style.handle_kind, t, y, z, span, style.handle, False)


def _door(
    b: SceneBuilder,
    parent: Body,
    style: _Style,
    cell: tuple[float, float, float, float],
    x: float,
    side: str,
) -> None:
    """A hinged door; side names the edge with the hinge: left (+y), right, top, bottom."""
    y0, y1, z0, z1 = cell
    half_y, half_z = (y1 - y0) / 2 - style.gap, (z1 - z0) / 2 - style.gap
    middle = np.array([x, (y0 + y1) / 2, (z0 + z1) / 2])
    edge, axis = {
        "left": ([0, half_y, 0], [0, 0, 1]),
        "right": ([0, -half_y, 0], [0, 0, -1]),
        "top": ([0, 0, half_z], [0, -1, 0]),
        "bottom": ([0, 0, -half_z], [0, 1, 0]),
    }[side]
    edge_at = np.array(edge, float)
    body = b.body(parent, middle + edge_at, stem="door")
    limit = b.uniform(1.5, 2.2) if side in ("left", "right") else b.uniform(1.2, 1.7)
    # A door on its left edge (+y) opens towards +x when it turns so that -y goes to +x.
    b.hinge(body, axis, 0.0, limit)
    y, z = -edge_at[1], -edge_at[2]
    t = _front_panel(b, body, style, y, z, half_y, half_z)
    if b.chance(0.2) and min(half_y, half_z) > 0.08:
        glass = b.material("gradient", "light" if b.chance(0.5) else "dark")
        b.box(body, [0.002, half_y * 0.68, half_z * 0.68], [t + 0.001, y, z], glass)
    inset = b.uniform(0.75, 0.92)
    offset = {"left": (-inset, 0), "right": (inset, 0), "top": (0, -inset), "bottom": (0, inset)}
    dy, dz = offset[side][0] * half_y, offset[side][1] * half_z
    upright = side in ("left", "right")
    if upright and b.chance(0.4):
        dz = b.uniform(-0.5, 0.5) * half_z
    span = 2 * (half_z if upright else half_y)
    parts.handle(b, body, style.handle_kind, t, y + dy, z + dz, span, style.handle, upright)
    for s in (-0.7, 0.7):
        along = np.array([0, 0, s * half_z]) if upright else np.array([0, s * half_y, 0])
        reach = along * 0.06 / max(abs(s), 1e-9)
        b.rod(body, along - reach, along + reach, 0.005, style.metal, rounded=False)


def carcass(
    b: SceneBuilder, parent: Body, width: float, height: float, depth: float, kinds: list[str]
) -> None:
    """A cabinet with its back at x = -depth, front at x = 0, centred on y, standing on z = 0.

    kinds: what its cells may hold, of 'drawer', 'door', 'double', 'flap', 'shelf'.
    """
    style = _Style(b)
    t = style.board * 1.2
    x = -depth / 2
    foot = b.uniform(0.02, 0.12) if b.chance(0.5) and height > 0.3 else 0.0
    if foot:
        for sx in (0.06 - depth, -0.06):
            for sy in (-1, 1):
                at = [sx, sy * (width / 2 - 0.04), foot / 2]
                b.box(parent, [0.018, 0.018, foot / 2], at, style.carcass)
    low, high = foot, height
    over = b.uniform(0.001, 0.02)
    top = style.carcass if b.chance(0.7) else b.material()
    b.box(parent, [depth / 2 + over, width / 2 + over, t], [x, 0, high - t], top)
    b.box(parent, [depth / 2, width / 2, t], [x, 0, low + t], style.carcass)
    # walls end inside the top board, so that no two surfaces coincide
    middle, half_high = (low + high - t) / 2, (high - low - t) / 2
    for sign in (-1, 1):
        b.box(parent, [depth / 2, t, half_high], [x, sign * (width / 2 - t), middle], style.carcass)
    b.box(parent, [0.004, width / 2, half_high], [-depth + 0.004, 0, middle], style.carcass)

    columns = int(np.clip(round(width / b.uniform(0.25, 0.6)), 1, 3))
    edges_y = np.linspace(-width / 2 + 2 * t, width / 2 - 2 * t, columns + 1)
    overlay = b.chance(0.6)
    front_x = 0.0 if overlay else -2 * style.board
    for c in range(columns):
        if c:
            at = [x, edges_y[c], middle]
            b.box(parent, [depth / 2 - 0.002, t, half_high], at, style.carcass)
        rows = int(np.clip(round((high - low) / b.uniform(0.13, 0.6)), 1, 5))
        cuts = np.cumsum(b.rng.dirichlet(np.full(rows, 12.0)))[:-1]
        edges_z = np.concatenate([[0], cuts, [1]]) * (high - low - 4 * t) + low + 2 * t
        for r in range(rows):
            if r:
                at = [x, (edges_y[c] + edges_y[c + 1]) / 2, edges_z[r]]
                half_y = (edges_y[c + 1] - edges_y[c]) / 2
                b.box(parent, [depth / 2 - 0.003, half_y, t * 0.8], at, style.carcass)
            grow = t * 0.7 if overlay else -t * 0.4
            cell = (
                edges_y[c] - grow,
                edges_y[c + 1] + grow,
                edges_z[r] - grow,
                edges_z[r + 1] + grow,
            )
            _fill_cell(b, parent, style, cell, front_x, depth - 0.02 + front_x, kinds)


def _fill_cell(
    b: SceneBuilder,
    parent: Body,
    style: _Style,
    cell: tuple[float, float, float, float],
    x: float,
    depth: float,
    kinds: list[str],
) -> None:
    y0, y1, z0, z1 = cell
    kind = b.pick(kinds)
    if kind == "drawer" and (z1 - z0) > 1.6 * (y1 - y0):
        kind = "door"
    if kind == "drawer":
        _drawer(b, parent, style, cell, x, depth)
    elif kind == "flap":
        _door(b, parent, style, cell, x, b.pick(["top", "bottom"]))
    elif kind == "double" and (y1 - y0) > 0.3:
        middle = (y0 + y1) / 2
        _door(b, parent, style, (y0, middle, z0, z1), x, "right")
        _door(b, parent, style, (middle, y1, z0, z1), x, "left")
    elif kind != "shelf":
        _door(b, parent, style, cell, x, b.pick(["left", "right"]))
    if kind != "drawer" and (z1 - z0) > 0.12 and b.chance(0.6):
        for _ in range(int(b.rng.integers(1, 4))):
            at = [
                x - depth * b.uniform(0.25, 0.75),
                (y0 + y1) / 2 + b.uniform(-0.35, 0.35) * (y1 - y0),
                z0 + 0.014,
            ]
            thing(b, b.body(parent, at), min(0.12, 0.45 * (z1 - z0), 0.25 * (y1 - y0)))


def cabinet(b: SceneBuilder) -> Layout:
    """Drawers, doors, flaps and shelves in one piece of furniture."""
    width, height, depth = b.uniform(0.35, 1.3), b.uniform(0.25, 1.3), b.uniform(0.3, 0.5)
    if b.compact:
        width, height, depth = b.uniform(0.25, 0.6), b.uniform(0.12, 0.4), b.uniform(0.18, 0.3)
    weights = b.pick(["drawer", "mixed", "door"])
    kinds = {
        "drawer": ["drawer", "drawer", "drawer", "shelf"],
        "mixed": ["drawer", "drawer", "door", "double", "flap", "shelf"],
        "door": ["door", "double", "double", "flap", "drawer"],
    }[weights]
    carcass(b, b.body(), width, height, depth, kinds)
    on_table = b.compact or (height < 0.45 and b.chance(0.5))
    return Layout(
        "table" if on_table else "floor",
        (0.0, 0.0, height / 2),
        0.5 * np.hypot(width, height),
        depth / 2 + 0.5,
        width / 2,
        1.0,
        depth,
    )


def small_drawers(b: SceneBuilder) -> Layout:
    """A desktop box of drawers, as for stationery, screws or tea."""
    width, height, depth = b.uniform(0.18, 0.45), b.uniform(0.12, 0.4), b.uniform(0.15, 0.3)
    carcass(b, b.body(), width, height, depth, ["drawer"])
    return Layout(
        "table", (0, 0, height / 2), 0.5 * np.hypot(width, height), 0.3, width / 2, 1.0, depth
    )


def chest(b: SceneBuilder) -> Layout:
    """A box with a lid hinged at the back: chest, toy box, freezer, jewel case, pedal bin."""
    scale = "small" if b.compact else b.pick(["small", "large"])
    w, d, h = (
        b.rng.uniform([0.14, 0.1, 0.06], [0.35, 0.25, 0.2])
        if scale == "small"
        else b.rng.uniform([0.5, 0.35, 0.3], [1.1, 0.6, 0.6])
    )
    root = b.body()
    look = b.pick(["wood", "plain", "any", "planks", "weave"])
    shell = b.material(look)
    lid_look = shell if b.chance(0.6) else b.material(look)
    metal = b.material(b.pick(["plain", "brushed"]), "metal")
    t = 0.02 * (w + d)
    x = -d / 2
    parts.open_box(b, root, d / 2, w / 2, h, shell, t, (x, 0, 0))
    lid = b.body(root, [-d, 0, h], stem="lid")
    b.hinge(lid, [0, -1, 0], 0.0, b.uniform(1.4, 2.1))
    over = b.uniform(0, 0.03) * d
    thick = b.uniform(0.03, 0.15) * h + 0.004
    shape = b.rng.random()
    front = d + over
    if shape < 0.3:
        arc = np.linspace(0, np.pi, 7)
        rise = b.uniform(0.15, 0.5) * d
        xs, zs = d / 2 - d / 2 * np.cos(arc), rise * np.sin(arc)
        for i in range(6):
            p, q = np.array([xs[i], 0, zs[i]]), np.array([xs[i + 1], 0, zs[i + 1]])
            angle = -np.arctan2(q[2] - p[2], q[0] - p[0])
            quat = np.array([np.cos(angle / 2), 0, np.sin(angle / 2), 0])
            half = [np.linalg.norm(q - p) / 2 * 1.06, w / 2, t / 3]
            b.box(lid, half, (p + q) / 2 + [0, 0, t / 3], lid_look, quat=quat)
        for sign in (-1, 1):
            b.ball(
                lid,
                [d / 2 * 0.99, t / 3, rise * 0.99],
                [d / 2, sign * (w / 2 - t / 3), 0],
                lid_look,
            )
        thick = t
        front = d
    else:
        b.box(lid, [front / 2, w / 2 + over / 2, thick / 2], [front / 2, 0, thick / 2], lid_look)
        if shape > 0.7:
            rim = 0.12 * d
            b.box(
                lid,
                [front / 2 - rim, w / 2 - rim, thick / 4],
                [front / 2, 0, thick * 1.25],
                lid_look,
            )
    if b.chance(0.7):
        kind = b.pick(["bar", "knob", "bow", "lip", "shell"])
        parts.handle(
            b, lid, kind, front, 0, thick / 2, w, lid_look if b.chance(0.3) else metal, False
        )
    if b.chance(0.4):
        s = 0.04 * w
        b.box(lid, [0.003, s, 0.5 * s + thick / 2], [front + 0.003, 0.0, 0], metal)
        b.box(root, [0.004, s * 1.2, s], [0.004, 0, h - 1.6 * s], metal)
    if b.chance(0.4):
        for sign in (-1, 1):
            for body, z, half in ((root, h / 2, h / 2), (lid, thick / 2, thick / 2 + 0.001)):
                reach = d if body is root else front
                mid = (
                    [-d / 2, sign * 0.3 * w, z] if body is root else [reach / 2, sign * 0.3 * w, z]
                )
                b.box(body, [reach / 2 + 0.003, 0.02 * w, half], mid, metal)
    for _ in range(int(b.rng.integers(0, 4))):
        at = [x + b.uniform(-0.25, 0.25) * d, b.uniform(-0.35, 0.35) * w, t]
        thing(b, b.body(root, at), 0.35 * min(d, h))
    support = "table" if scale == "small" else "floor"
    radius = 0.6 * float(np.hypot(w, h + d))
    return Layout(support, (x, 0, 0.6 * h), radius, d / 2 + 0.2, w / 2, 1.3, d + 0.5 * h)


def latch_door(b: SceneBuilder) -> Layout:
    """A room door in its wall, with a turning handle; the handle turns first or with the door."""
    width, height = b.uniform(0.65, 1.0), b.uniform(1.8, 2.1)
    root = b.body()
    look = b.material(b.pick(["wood", "plain", "plain"]))
    frame = look if b.chance(0.3) else b.material(b.pick(["wood", "plain"]))
    metal = b.material(b.pick(["plain", "brushed"]), "metal")
    wall = b.material(b.pick(["plain", "cloudy", "stripes"]), "light", flat=True, repeat=1.0)
    side = 1 if b.chance(0.5) else -1
    depth, trim = 0.06, b.uniform(0.03, 0.08)
    for sign in (-1, 1):
        b.box(root, [0.05, 1.0, 1.4], [-depth, sign * (width / 2 + 1.0 + trim), 1.4], wall)
        b.box(
            root, [0.07, trim, height / 2], [-depth, sign * (width / 2 + trim), height / 2], frame
        )
    b.box(root, [0.07, width / 2 + 2 * trim, trim], [-depth, 0, height + trim], frame)
    b.box(root, [0.05, width / 2 + trim, 0.5], [-depth, 0, height + 2 * trim + 0.5], wall)
    gap = 0.004
    door = b.body(root, [0.0, side * (width / 2 - gap), gap], stem="door")
    knob = b.body(door, [0.02, -side * (width - 0.07), b.uniform(0.9, 1.1)], stem="latch")
    turn_joint = b.hinge(knob, [side, 0, 0], 0.0, b.uniform(0.5, 1.0))
    opening = b.uniform(1.2, 1.9)
    follows = ((turn_joint, 0.6),) if b.chance(0.4) else ()
    b.hinge(door, [0, 0, side], 0.0, opening, companions=follows)
    half = [0.02, width / 2 - gap, height / 2 - gap]
    b.box(door, half, [0, -side * (width / 2 - gap), height / 2], look)
    panels = b.pick(["none", "two", "window", "lines"])
    for k in range(2 if panels in ("two", "lines") else 0):
        z = height * (0.28 + 0.44 * k)
        at = [0.02, -side * width / 2, z]
        if panels == "two":
            b.box(door, [0.006, width * 0.32, height * 0.17], at, look)
        else:
            b.box(door, [0.001, width * 0.4, 0.006], at, b.material("plain", "dark"))
    if panels == "window":
        glass = b.material("gradient", "light")
        b.box(door, [0.022, width * 0.3, height * 0.2], [0, -side * width / 2, height * 0.7], glass)
    plate = b.uniform(0.02, 0.03)
    if b.chance(0.5):
        b.box(
            door, [0.003, plate, plate * b.uniform(1, 4)], [0.022, knob.pos[1], knob.pos[2]], metal
        )
    if b.chance(0.7):
        reach = side * b.uniform(0.09, 0.14)
        thick = b.uniform(0.008, 0.012)
        b.rod(knob, [0, 0, 0], [0.055, 0, 0], thick, metal)
        b.rod(
            knob,
            [0.055, 0, 0],
            [0.055 + b.uniform(-0.01, 0.01), reach, 0],
            thick,
            metal,
            rounded=b.chance(0.6),
        )
    else:
        b.rod(knob, [0, 0, 0], [0.05, 0, 0], 0.012, metal, rounded=False)
        b.ball(knob, [0.022, 0.03, 0.027], [0.06, 0, 0], metal)
    close = b.chance(0.5)
    focus = (0.0, -side * 0.25 * width, 1.0) if close else (0.0, 0.0, 1.0)
    return Layout("floor", focus, 0.45 if close else 0.9, 0.6, 1.2, 0.7, 0.25, opening=True)
