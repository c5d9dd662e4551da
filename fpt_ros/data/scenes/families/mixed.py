"""Combinations: several jointed things side by side, with loose things before and on them."""

from __future__ import annotations

import numpy as np

from fpt_ros.data.scenes.builder import SceneBuilder, turn
from fpt_ros.data.scenes.families import (
    furniture,
    jointed,
    kitchen,
    panels,
    shelves,
    windows,
)
from fpt_ros.data.scenes.families.loose import scatter
from fpt_ros.data.scenes.layout import Layout
from fpt_ros.data.scenes.things import thing

_MEMBERS = (
    furniture.cabinet,
    furniture.cabinet,
    furniture.small_drawers,
    furniture.chest,
    panels.control_panel,
    panels.appliance,
    windows.sliding_cupboard,
    jointed.flap_box,
    jointed.desk_lamp,
    jointed.arm,
    kitchen.kitchenware,
    kitchen.kitchenware,
    shelves.bookshelf,
    shelves.turntable,
)


def mixed(b: SceneBuilder) -> Layout:
    """One to three table-sized things in a row, loose things in front and on top."""
    b.compact = True
    count = int(b.rng.choice([1, 2, 3], p=[0.35, 0.45, 0.2]))
    bases, layouts, centres = [], [], []
    edge = 0.0
    for _ in range(count):
        b.base = b.body(None)
        layout = _MEMBERS[int(b.rng.integers(len(_MEMBERS)))](b)
        half = min(layout.half_width, 1.3 * layout.radius)
        bases.append(b.base)
        layouts.append(layout)
        centres.append(edge + half)
        edge += 2 * half + b.uniform(0.01, 0.15)
        b.base = None
    b.compact = False
    for base, centre in zip(bases, centres, strict=True):
        base.pos = np.array([b.uniform(-0.05, 0.1), centre - edge / 2, 0.0])
        base.quat = turn([0, 0, 1], b.rng.normal(0, 0.15))

    reach = max(min(layout.half_depth, 0.35) for layout in layouts)
    back = max(layout.back for layout in layouts)
    top = max(2 * layout.focus[2] for layout in layouts)
    if b.chance(0.75):
        half = 0.12 + 0.12 * edge
        scatter(b, int(b.rng.integers(1, 6)), half, (0.05, 0.13), centre=(reach + half, 0.0))
    if count == 1 and layouts[0].azimuth < 1.2 and b.chance(0.5):
        at = [-back * b.uniform(0.3, 0.7), b.uniform(-0.1, 0.1) * edge, top + 0.005]
        thing(b, b.loose_body(at), b.uniform(0.04, 0.09))
    radius = max(layout.radius for layout in layouts) + 0.1 * edge
    return Layout("table", (0.1, 0, 0.35 * top), radius, 0.5, edge / 2 + 0.05, 1.0, back + 0.1)
