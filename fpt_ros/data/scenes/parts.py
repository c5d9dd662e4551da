"""Parts that many families share: handles, open boxes, grippers and hands."""

from __future__ import annotations

import numpy as np

from fpt_ros.data.scenes.builder import Body, SceneBuilder

HANDLES = ("bar", "bow", "knob", "recess", "lip", "shell", "none")


def handle(
    b: SceneBuilder,
    body: Body,
    kind: str,
    x: float,
    y: float,
    z: float,
    span: float,
    material: str,
    upright: bool,
) -> None:
    """A handle on a front that faces +x, centred at (x, y, z); `span` is the room it has (m)."""
    length = min(span * b.uniform(0.25, 0.7), 0.45) / 2
    along = np.array([0.0, 0.0, 1.0]) if upright else np.array([0.0, 1.0, 0.0])
    centre = np.array([x, y, z])
    out = np.array([1.0, 0.0, 0.0])
    thick = b.uniform(0.004, 0.009)
    stand = b.uniform(0.02, 0.045)
    if kind in ("bar", "bow"):
        a, c = centre - along * length, centre + along * length
        rounded = kind == "bow" or b.chance(0.5)
        over = along * (0.0 if kind == "bow" else min(0.02, 0.3 * length))
        b.rod(
            body, a + out * stand - over, c + out * stand + over, thick, material, rounded=rounded
        )
        b.rod(body, a, a + out * stand, thick * 0.9, material, rounded=rounded)
        b.rod(body, c, c + out * stand, thick * 0.9, material, rounded=rounded)
    elif kind == "knob":
        radius = min(b.uniform(0.010, 0.022), 0.4 * span)
        b.rod(body, centre, centre + out * stand * 0.7, radius * 0.4, material, rounded=False)
        if b.chance(0.5):
            b.ball(body, [radius * 0.7, radius, radius], centre + out * stand * 0.8, material)
        else:
            b.rod(
                body,
                centre + out * stand * 0.6,
                centre + out * stand,
                radius,
                material,
                rounded=False,
            )
    elif kind == "recess":
        half = np.array([0.0015, 0, 0]) + along * length + (1 - along - out) * b.uniform(0.01, 0.02)
        b.box(body, half, centre, b.material("plain", "dark"))
    elif kind == "lip":
        half = np.array([stand * 0.4, 0, 0]) + along * min(length * 1.8, 0.48 * span)
        half += (1 - along - out) * thick * 0.5
        b.box(body, half, centre + out * stand * 0.4, material)
    elif kind == "shell":
        half = np.array([stand * 0.5, 0, 0]) + along * length * 0.7 + (1 - along - out) * 0.011
        b.ball(body, half, centre, material)


def open_box(
    b: SceneBuilder,
    body: Body,
    half_x: float,
    half_y: float,
    height: float,
    material: str,
    wall: float = 0.0,
    centre: tuple[float, float, float] = (0, 0, 0),
) -> None:
    """A box without a top whose floor's underside is at `centre`."""
    t = wall or max(0.003, 0.04 * min(half_x, half_y))
    c = np.asarray(centre, float)
    b.box(body, [half_x, half_y, t / 2], np.add(c, [0, 0, t / 2]), material)
    for sign in (-1, 1):
        x_side = np.add(c, [sign * (half_x - t / 2), 0, height / 2])
        b.box(body, [t / 2, half_y, height / 2], x_side, material)
        y_side = np.add(c, [0, sign * (half_y - t / 2), height / 2])
        b.box(body, [half_x - t, t / 2, height / 2], y_side, material)


def gripper(b: SceneBuilder, body: Body, scale: float, opening: float) -> None:
    """A two-finger gripper on a forearm. Finger tips at the origin, forearm towards +z."""
    dark = b.material("plain", b.pick(["dark", "grey"]))
    shell = b.material("plain", b.pick(["light", "light", "grey", "dark", "vivid"]))
    tip, palm = 0.045 * scale, 0.07 * scale
    for sign in (-1, 1):
        y = sign * (opening / 2 + 0.006 * scale)
        b.box(body, [0.009 * scale, 0.006 * scale, tip], [0, y, tip * 0.8], dark, solid=False)
        pad = [0.0095 * scale, 0.0065 * scale, tip * 0.25]
        b.box(body, pad, [0, y, tip * 0.1], shell, solid=False)
    width = 0.025 * scale + opening / 2
    at = [0, 0, palm + 0.02 * scale]
    b.box(body, [0.02 * scale, width, 0.015 * scale], at, shell, solid=False)
    wrist = palm + 0.035 * scale
    flange = wrist + b.uniform(0.05, 0.09) * scale
    b.rod(body, [0, 0, wrist], [0, 0, flange], 0.03 * scale, dark, rounded=False, solid=False)
    elbow = np.array([b.uniform(-0.1, 0.1), b.uniform(-0.1, 0.1), 0.0]) * scale
    elbow[2] = flange + b.uniform(0.2, 0.5) * scale
    start = [0, 0, flange + 0.01]
    b.rod(body, start, elbow, b.uniform(0.03, 0.045) * scale, shell, solid=False)
    b.ball(body, 0.052 * scale, elbow, dark, solid=False)
    end = elbow + np.array([b.uniform(-0.5, 0.5), b.uniform(-0.5, 0.5), 0.5]) * scale
    b.rod(body, elbow, end, 0.042 * scale, shell, solid=False)


def hand(b: SceneBuilder, body: Body) -> None:
    """A human hand and forearm. Finger tips at the origin, forearm towards +z."""
    tone = b.rng.uniform()
    colour = (1 - tone) * np.array([0.93, 0.76, 0.66]) + tone * np.array([0.40, 0.26, 0.19])
    skin = b.material(b.pick(["plain", "cloudy"]), colour)
    palm = np.array([0.0, 0.0, 0.125])
    b.ball(body, [0.016, 0.042, 0.05], palm, skin, solid=False)
    curl = b.uniform(0.0, 0.035)
    for k in range(4):
        y = (k - 1.5) * 0.019
        knuckle = np.add(palm, [0.0, y, -0.04])
        bent = np.array([curl, y * 0.95, 0.045 + 0.004 * abs(k - 1)])
        tip = np.array([curl * b.uniform(0.0, 0.6), y * 0.8, 0.006 * abs(k - 1) + 0.004])
        b.rod(body, knuckle, bent, 0.0085, skin, solid=False)
        b.rod(body, bent, tip, 0.0075, skin, solid=False)
    side = 1 if b.chance(0.5) else -1
    thumb = np.array([curl + 0.012, side * 0.052, 0.07])
    b.rod(body, np.add(palm, [0, side * 0.03, 0.015]), thumb, 0.0105, skin, solid=False)
    b.rod(body, thumb, [curl + 0.01, side * 0.035, 0.04], 0.009, skin, solid=False)
    elbow = np.array([b.uniform(-0.12, 0.12), b.uniform(-0.12, 0.12), 0.42])
    b.rod(body, np.add(palm, [0, 0, 0.03]), elbow, 0.029, skin, solid=False)
    if b.chance(0.7):
        cuff = palm + (elbow - palm) * b.uniform(0.35, 0.7)
        sleeve = b.material(b.pick(["weave", "plain", "stripes"]))
        b.rod(body, cuff, elbow, 0.042, sleeve, solid=False)
        b.rod(
            body,
            elbow,
            np.add(elbow, [b.uniform(-0.3, 0.3), b.uniform(-0.3, 0.3), 0.3]),
            0.05,
            sleeve,
            solid=False,
        )
