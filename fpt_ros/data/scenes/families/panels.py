"""Boards with controls: knobs, levers, sliders, buttons, switches, wheels."""

from __future__ import annotations

import numpy as np

from fpt_ros.data.scenes import parts, shapes
from fpt_ros.data.scenes.builder import Body, SceneBuilder, turn
from fpt_ros.data.scenes.layout import Layout
from fpt_ros.data.scenes.things import thing

CONTROLS = ("knob", "lever", "slider", "button", "rocker", "wheel", "toggle")


def _knob(b: SceneBuilder, at: Body, size: float, look: str, mark: str) -> None:
    """A turning knob, its axis along the board's normal (x)."""
    knob = b.body(at, stem="knob")
    b.hinge(knob, [1, 0, 0], b.uniform(-2.4, -1.0), b.uniform(1.0, 2.4), rest=b.uniform(-1, 1))
    r, h = size * b.uniform(0.5, 0.95), size * b.uniform(0.4, 1.0)
    style = b.pick(["disc", "bar", "star", "dome", "pointer"])
    if style in ("disc", "dome", "bar"):
        top = r * b.uniform(0.7, 1.0)
        profile = [[0, 0], [r, 0], [top, h * (0.4 if style == "bar" else 0.9)]]
        profile += [[top * 0.8, h * (0.45 if style == "bar" else 1.05)]]
        profile += [[0, h * (0.45 if style == "bar" else 1.05 + 0.3 * (style == "dome"))]]
        b.mesh(
            knob,
            *shapes.lathe(np.array(profile), 20),
            look,
            quat=turn([0, 1, 0], np.pi / 2),
            smooth=style == "dome",
        )
    if style == "star":
        for k in range(3):
            a = np.pi * k / 3
            b.rod(
                knob,
                [h * 0.5, -r * np.cos(a), -r * np.sin(a)],
                [h * 0.5, r * np.cos(a), r * np.sin(a)],
                0.3 * r,
                look,
            )
        b.rod(knob, [0, 0, 0], [h, 0, 0], 0.4 * r, look, rounded=False)
    if style == "bar":
        b.box(knob, [h / 2, 0.16 * r, 0.98 * r], [h / 2, 0, 0], look)
    if style == "pointer":
        b.rod(knob, [0, 0, 0], [h * 0.6, 0, 0], 0.6 * r, look, rounded=False)
        b.box(knob, [h * 0.35, 0.2 * r, 0.75 * r], [h * 0.5, 0, 0.5 * r], look)
    if style != "star" and b.chance(0.8):
        height = h * (0.52 if style == "bar" else 1.08)
        reach = 0.0 if style == "pointer" else 0.3
        b.box(
            knob,
            [max(0.001, height * 0.5), 0.06 * r, 0.25 * r],
            [height * 0.52, 0, (0.65 + reach * 0) * r],
            mark,
        )


def _lever(b: SceneBuilder, at: Body, size: float, look: str, mark: str) -> None:
    """A stick that tips up and down or sideways out of a slot."""
    flat = b.chance(0.4)
    lever = b.body(at, stem="lever")
    length = size * b.uniform(1.3, 2.4)
    thick = size * b.uniform(0.1, 0.18)
    if flat:
        # lies against the board and turns about its normal, like a valve or a door handle
        b.hinge(lever, [1, 0, 0], -1.4, 1.4, rest=b.uniform(-0.8, 0.8))
        b.rod(lever, [0, 0, 0], [size * 0.4, 0, 0], thick * 1.5, look, rounded=False)
        end = np.array([size * 0.4, 0, length * 0.8])
        b.rod(lever, [size * 0.4, 0, 0], end, thick, look)
        return
    axis = [0, 1, 0] if b.chance(0.7) else [0, 0, 1]
    b.hinge(lever, axis, -0.75, 0.75, rest=b.uniform(-0.7, 0.7))
    b.rod(lever, [0, 0, 0], [length, 0, 0], thick, b.material("plain", "metal"))
    if b.chance(0.7):
        b.ball(lever, [thick * 2.2] * 3, [length, 0, 0], mark)
    else:
        b.rod(lever, [length * 0.6, 0, 0], [length * 1.05, 0, 0], thick * 1.7, mark)
    slot = [0.002, size * 0.2, size * 0.6] if axis == [0, 1, 0] else [0.002, size * 0.6, size * 0.2]
    b.box(at, slot, [0, 0, 0], b.material("plain", "dark"))


def _slider(b: SceneBuilder, at: Body, size: float, look: str, mark: str) -> None:
    """A cap that runs along a slot."""
    along = np.array([0, 0, 1.0]) if b.chance(0.6) else np.array([0, 1.0, 0])
    across = np.array([0, 1.0, 1.0]) - along
    reach = size * 0.85
    b.box(
        at,
        [0.002, 0, 0] + along * reach * 1.2 + across * size * 0.07,
        [0, 0, 0],
        b.material("plain", "dark"),
    )
    cap = b.body(at, stem="slider")
    b.slide(cap, along, -reach, reach, rest=b.uniform(-0.9, 0.9) * reach)
    half = np.array([size * 0.2, 0, 0]) + along * size * b.uniform(0.12, 0.3)
    half += across * size * b.uniform(0.2, 0.4)
    b.box(cap, half, [half[0] + 0.003, 0, 0], look)
    line = half * [1.02, 1.0, 1.0] * (1 - 0.85 * along)
    b.box(cap, line, [half[0] + 0.0035, 0, 0], mark)


def _button(b: SceneBuilder, at: Body, size: float, look: str, mark: str) -> None:
    """A push button on a ring."""
    button = b.body(at, stem="button")
    r, h = size * b.uniform(0.45, 0.85), size * b.uniform(0.4, 0.8)
    b.slide(button, [1, 0, 0], -0.8 * h, 0.0)
    shape = b.pick(["round", "square", "mushroom"])
    if shape == "square":
        b.box(button, [h / 2, r, r * b.uniform(0.6, 1.0)], [h / 2, 0, 0], mark)
        b.box(at, [0.004, r * 1.2, r * 1.2], [0, 0, 0], look)
        return
    b.rod(
        button, [0, 0, 0], [h, 0, 0], r * (0.6 if shape == "mushroom" else 1), mark, rounded=False
    )
    if shape == "mushroom":
        b.ball(button, [0.4 * r, 1.2 * r, 1.2 * r], [h, 0, 0], mark)
    b.rod(at, [0, 0, 0], [0.006, 0, 0], r * 1.3, look, rounded=False)


def _rocker(b: SceneBuilder, at: Body, size: float, look: str, mark: str) -> None:
    """A rocker or light switch."""
    rocker = b.body(at, [0.002, 0, 0], stem="rocker")
    tilt = b.uniform(0.18, 0.35)
    b.hinge(rocker, [0, 1, 0], -tilt, tilt, rest=tilt if b.chance(0.5) else -tilt)
    half = size * np.array([b.uniform(0.2, 0.35), b.uniform(0.4, 0.8), b.uniform(0.6, 0.95)])
    b.box(rocker, half, [0, 0, 0], look)
    b.box(at, [half[0] * 0.3, half[1] * 1.25, half[2] * 1.2], [0, 0, 0], mark)


def _toggle(b: SceneBuilder, at: Body, size: float, look: str, mark: str) -> None:
    """A short metal toggle on a round nut."""
    toggle = b.body(at, stem="toggle")
    tilt = b.uniform(0.4, 0.6)
    b.hinge(toggle, [0, 1, 0], -tilt, tilt, rest=tilt if b.chance(0.5) else -tilt)
    metal = b.material("brushed")
    b.rod(toggle, [0, 0, 0], [size * b.uniform(0.8, 1.3), 0, 0], size * b.uniform(0.12, 0.2), metal)
    b.rod(at, [0, 0, 0], [size * 0.15, 0, 0], size * 0.4, metal, rounded=False)


def _wheel(b: SceneBuilder, at: Body, size: float, look: str, mark: str) -> None:
    """A hand wheel or valve with spokes."""
    wheel = b.body(at, stem="wheel")
    b.hinge(wheel, [1, 0, 0], -2.0, 2.0, rest=b.uniform(-0.5, 0.5))
    r, tube, x = size * b.uniform(0.8, 1.05), size * b.uniform(0.08, 0.15), size * 0.6
    b.mesh(wheel, *shapes.torus(r, tube), look, pos=[x, 0, 0], quat=turn([0, 1, 0], np.pi / 2))
    spokes = int(b.rng.integers(2, 6))
    for k in range(spokes):
        a = 2 * np.pi * k / spokes
        b.rod(wheel, [x, 0, 0], [x, r * np.cos(a), r * np.sin(a)], tube * 0.7, look)
    b.rod(wheel, [0, 0, 0], [x * 1.1, 0, 0], tube * 1.6, mark, rounded=False)
    if b.chance(0.3):
        b.rod(wheel, [x, 0, r], [x + size * 0.6, 0, r], tube * 1.2, mark)


_MAKERS = {
    "knob": _knob,
    "lever": _lever,
    "slider": _slider,
    "button": _button,
    "rocker": _rocker,
    "toggle": _toggle,
    "wheel": _wheel,
}


def _board(b: SceneBuilder, controls: tuple[str, ...], columns: int, rows: int) -> Layout:
    """A board with a grid of controls: upright on the wall, tilted, or lying on the table."""
    pitch = b.uniform(0.05, 0.14)
    size = pitch * b.uniform(0.28, 0.42)
    half_y, half_z = columns * pitch / 2 + 0.02, rows * pitch / 2 + 0.02
    mount = b.pick(["tilted", "lying"] if b.compact else ["wall", "wall", "tilted", "lying"])
    pose = {"wall": 0.0, "tilted": -b.uniform(0.5, 1.1), "lying": -np.pi / 2}[mount]
    on_wall = mount == "wall"
    depth = b.uniform(0.01, 0.05)
    lift = 0.0 if on_wall else half_z * np.cos(pose) + depth
    board = b.body(None, [0, 0, lift], turn([0, 1, 0], pose))
    face = b.material(b.pick(["plain", "brushed", "any", "wood", "cloudy"]))
    b.box(board, [depth, half_y, half_z], [-depth, 0, 0], face)
    if mount == "tilted":
        reach = 0.45 * half_z * float(np.sin(-pose))
        b.box(
            b.body(),
            [reach, half_y * 0.95, lift * 0.42],
            [-reach, 0, lift * 0.42],
            face,
        )
    looks = [b.material("plain", b.pick(["dark", "light", "metal", "vivid"])) for _ in range(2)]
    if b.chance(0.3):
        looks[0] = face
    mark = b.material("plain", b.pick(["light", "vivid"]))
    uniform_kind = b.pick(controls) if b.chance(0.5) else None
    for i in range(columns):
        for j in range(rows):
            if b.chance(0.1) and columns * rows > 1:
                continue
            jitter = 0.0 if b.chance(0.7) else 0.06
            y = (i - (columns - 1) / 2) * pitch + b.uniform(-jitter, jitter) * pitch
            z = (j - (rows - 1) / 2) * pitch + b.uniform(-jitter, jitter) * pitch
            at = b.body(board, [0, y, z])
            kind = uniform_kind or b.pick(controls)
            colour = mark if b.chance(0.5) else b.material("plain", "vivid")
            _MAKERS[kind](b, at, size * b.uniform(0.85, 1.1), looks[int(b.rng.integers(2))], colour)
            if b.chance(0.25):
                b.box(at, [0.001, size * 0.5, size * 0.12], [0, 0, -size * 1.25], mark)
    if b.chance(0.3) and rows > 1:
        screen = b.material("poster", "dark", emission=0.4)
        b.box(board, [0.004, half_y * 0.4, pitch * 0.3], [0, 0, half_z + pitch * 0.35], screen)
        b.box(board, [depth, half_y, pitch * 0.4], [-depth, 0, half_z + pitch * 0.4], face)
    radius = float(np.hypot(half_y, half_z))
    azimuth = np.pi if mount == "lying" else 0.9
    support = "wall" if on_wall else "table"
    return Layout(support, (0, 0, lift), radius, half_z + 0.1, half_y, azimuth, 2 * depth)


def _grid(b: SceneBuilder) -> tuple[int, int]:
    return int(b.rng.integers(1, 5)), int(b.rng.integers(1, 4))


def knob_panel(b: SceneBuilder) -> Layout:
    """Turning knobs and wheels: hob, mixer, valve board."""
    return _board(b, ("knob", "knob", "wheel"), *_grid(b))


def lever_panel(b: SceneBuilder) -> Layout:
    """Levers and sliders."""
    return _board(b, ("lever", "slider"), *_grid(b))


def switch_panel(b: SceneBuilder) -> Layout:
    """Buttons, rockers and toggles."""
    return _board(b, ("button", "rocker", "toggle"), *_grid(b))


def control_panel(b: SceneBuilder) -> Layout:
    """Everything mixed."""
    return _board(b, CONTROLS, int(b.rng.integers(2, 5)), int(b.rng.integers(1, 4)))


def appliance(b: SceneBuilder) -> Layout:
    """Oven, microwave, washing machine: a door, knobs and buttons in one body."""
    small = b.compact or b.chance(0.5)
    w, h, d = (
        b.rng.uniform([0.38, 0.24, 0.28], [0.55, 0.34, 0.4])
        if small
        else b.rng.uniform([0.5, 0.6, 0.5], [0.65, 0.9, 0.6])
    )
    root = b.body()
    shell = b.material(
        b.pick(["plain", "plain", "brushed"]), b.pick(["light", "grey", "dark", "metal"])
    )
    metal = b.material("plain", "metal")
    strip = b.uniform(0.16, 0.28)
    beside = small and b.chance(0.7)
    t = 0.015
    parts_y = (-w / 2, w / 2 - strip * w if beside else w / 2)
    top_z = h if beside else h * (1 - strip)
    b.box(root, [d / 2, w / 2, t], [-d / 2, 0, t], shell)
    b.box(root, [d / 2, w / 2, t], [-d / 2, 0, h - t], shell)
    for sign in (-1, 1):
        b.box(root, [d / 2, t, h / 2], [-d / 2, sign * (w / 2 - t), h / 2], shell)
    b.box(root, [t, w / 2, h / 2], [-d + t, 0, h / 2], shell)
    if beside:
        b.box(root, [d / 2, strip * w / 2, h / 2], [-d / 2, w / 2 - strip * w / 2, h / 2], shell)
        area = (0.0, w / 2 - strip * w / 2, h / 2)
        spots = [(area[1], h * f) for f in (0.2, 0.45, 0.7)]
    else:
        b.box(root, [d / 2, w / 2, h * strip / 2], [-d / 2, 0, h - h * strip / 2], shell)
        count = int(b.rng.integers(2, 6))
        spots = [((k / (count - 1) - 0.5) * 0.75 * w, h * (1 - strip / 2)) for k in range(count)]
    size = 0.32 * (strip * w if beside else min(strip * h, 0.6 * w / len(spots)))
    look, mark = (
        b.material("plain", b.pick(["dark", "metal", "light"])),
        b.material("plain", "light"),
    )
    kind = b.pick(["knob", "knob", "button"])
    for y, z in spots:
        _MAKERS[kind](b, b.body(root, [0.001, y, z]), size, look, mark)
    side = b.pick(["left", "right", "bottom"]) if not beside else "right"
    cy, half_y = (parts_y[0] + parts_y[1]) / 2, (parts_y[1] - parts_y[0]) / 2 - 0.003
    half_z = top_z / 2 - 0.004
    edge = {"left": [0, half_y, 0], "right": [0, -half_y, 0], "bottom": [0, 0, -half_z]}[side]
    axis = {"left": [0, 0, 1], "right": [0, 0, -1], "bottom": [0, 1, 0]}[side]
    door = b.body(root, np.array([0.0, cy, top_z / 2]) + edge, stem="door")
    b.hinge(door, axis, 0.0, b.uniform(1.4, 1.9))
    centre = -np.array(edge, float)
    b.box(
        door,
        [0.014, half_y, half_z],
        np.add(centre, [0.014, 0, 0]),
        shell if b.chance(0.6) else look,
    )
    window = b.material("gradient", "dark")
    if b.chance(0.3):
        r = 0.65 * min(half_y, half_z)
        b.rod(
            door,
            np.add(centre, [0.02, 0, 0]),
            np.add(centre, [0.031, 0, 0]),
            r,
            window,
            rounded=False,
        )
        ring = shapes.torus(r, 0.1 * r)
        b.mesh(
            door, *ring, metal, pos=np.add(centre, [0.03, 0, 0]), quat=turn([0, 1, 0], np.pi / 2)
        )
    else:
        b.box(door, [0.0145, half_y * 0.75, half_z * 0.6], np.add(centre, [0.0145, 0, 0]), window)
    dy = {"left": -0.85, "right": 0.85, "bottom": 0.0}[side] * half_y
    dz = 0.85 * half_z if side == "bottom" else 0.0
    upright = side != "bottom"
    parts.handle(
        b,
        door,
        b.pick(["bar", "bow", "lip", "recess"]),
        0.028,
        centre[1] + dy,
        centre[2] + dz,
        2.2 * (half_z if upright else half_y),
        metal,
        upright,
    )
    for _ in range(int(b.rng.integers(0, 3))):
        at = [-d * b.uniform(0.3, 0.7), cy + b.uniform(-0.3, 0.3) * w * 0.6, 2 * t]
        thing(b, b.body(root, at), 0.3 * h)
    return Layout(
        "table" if small else "floor",
        (0, 0, h / 2),
        0.55 * np.hypot(w, h),
        d / 2 + 0.3,
        w / 2,
        1.0,
        d,
    )
