"""The families of things. Each function builds one and says where it is (`Layout`)."""

from __future__ import annotations

from collections.abc import Callable

from fpt_ros.data.scenes.builder import SceneBuilder
from fpt_ros.data.scenes.families import (
    assembly,
    barriers,
    furniture,
    hanging,
    household,
    interior,
    jointed,
    kitchen,
    loose,
    mechanical,
    mixed,
    panels,
    shelves,
    unseen,
    windows,
)
from fpt_ros.data.scenes.layout import Layout

Family = Callable[[SceneBuilder], Layout]

FAMILIES: dict[str, Family] = {
    "cabinet": furniture.cabinet,
    "small_drawers": furniture.small_drawers,
    "chest": furniture.chest,
    "latch_door": furniture.latch_door,
    "knob_panel": panels.knob_panel,
    "lever_panel": panels.lever_panel,
    "switch_panel": panels.switch_panel,
    "control_panel": panels.control_panel,
    "appliance": panels.appliance,
    "sliding_window": windows.sliding_window,
    "sliding_cupboard": windows.sliding_cupboard,
    "bookshelf": shelves.bookshelf,
    "wall_cupboard": shelves.wall_cupboard,
    "hook_rail": shelves.hook_rail,
    "turntable": shelves.turntable,
    "plug_board": shelves.plug_board,
    "kitchenware": kitchen.kitchenware,
    "bin_with_lid": kitchen.bin_with_lid,
    "arm": jointed.arm,
    "flap_box": jointed.flap_box,
    "desk_lamp": jointed.desk_lamp,
    "tool": jointed.tool,
    "loose_objects": loose.loose_objects,
    "blocks": loose.blocks,
    "floor_things": shelves.floor_things,
    "mixed": mixed.mixed,
    "assembly": assembly.assembly,
    "book": household.book,
    "storage_case": household.storage_case,
    "oven": household.oven,
    "office_chair": interior.office_chair,
    "display": interior.display,
    "toilet": interior.toilet,
    "wheel": mechanical.wheel,
    "balance": mechanical.balance,
    "trolley": mechanical.trolley,
    "hatch": barriers.hatch,
    "gate": barriers.gate,
    "hanging": hanging.hanging,
}

WEIGHTS: dict[str, float] = {
    "cabinet": 2,
    "chest": 2,
    "loose_objects": 3,
    "blocks": 2,
    "mixed": 3,
    "assembly": 8,
}
"""How often a family is drawn, where that is not once: the varied and the common ones more."""

UNSEEN_FAMILIES: dict[str, Family] = {
    "laptop": unseen.laptop,
    "tap": unseen.tap,
    "swing_window": windows.swing_window,
}
"""Only ever in the test split."""
