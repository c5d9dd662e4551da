"""What the demonstration asks, and when. Times are those of the recording demo/bag.

Pixels of the source image: 640x480 for the cup and the box, 640x360 for the robot.
"""

from dataclasses import dataclass
from enum import Enum

# x, y, dx, dy. Really floats: rclpy stores an int in a float field as nonsense.
Poke = tuple[float, float, float, float]
Pokes = tuple[Poke, ...]


class How(Enum):
    """How a question reaches the node."""

    PLAN = "plan"  # PokeArray without a stamp: answered on every image
    ONCE = "pokes"  # PokeArray with the stamp of an image: answered on that one
    TOPIC = "what-if"  # WhatIf on the topic
    SERVICE = "service"  # WhatIf in a service call


@dataclass(frozen=True)
class Question:
    """One question; plans have one candidate."""

    at_s: float  # asked on the first image at or after this time
    id: str
    how: How
    candidates: dict[str, Pokes]  # by name


def _plan(at_s: float, id: str, *pokes: Poke) -> Question:
    return Question(at_s, id, How.PLAN, {id: pokes})


SCRIPT = (
    # A hand holds a cup; it comes closer.
    _plan(0.0, "push the cup left", (345.0, 300.0, -70.0, 0.0)),
    Question(
        0.7,
        "cup: which way?",
        How.TOPIC,
        {
            "left": ((345.0, 300.0, -60.0, 0.0),),
            "up": ((345.0, 300.0, 0.0, -60.0),),
            "push its lid to the right": ((340.0, 165.0, 60.0, 0.0),),
            "push its lid, hold its foot": ((340.0, 165.0, 60.0, 0.0), (335.0, 340.0, 0.0, 0.0)),
        },
    ),
    _plan(1.6, "tip the cup over", (315.0, 135.0, -60.0, 10.0), (325.0, 385.0, 0.0, 0.0)),
    # A hand holds a box over a table.
    _plan(3.3, "push the box right", (350.0, 190.0, 70.0, 0.0)),
    Question(
        4.3,
        "box, pen or table?",
        How.SERVICE,
        {
            "push the box": ((380.0, 170.0, 60.0, 0.0),),
            "push the pen": ((236.0, 224.0, 40.0, 0.0),),
            "press on the table": ((320.0, 400.0, 0.0, 0.0),),
        },
    ),
    _plan(5.6, "turn the box", (430.0, 230.0, 0.0, 60.0), (210.0, 190.0, 0.0, 0.0)),
    # Also a point of the next clip's smaller pictures: the first of them meets this plan still.
    _plan(7.3, "press on the table", (250.0, 352.0, 0.0, 0.0)),
    # A robot arm puts a cup on a saucer.
    _plan(8.8, "push the cup right", (350.0, 278.0, 45.0, 8.0)),
    Question(
        9.2,
        "cup, saucer or gripper?",
        How.TOPIC,
        {
            "push the cup": ((350.0, 278.0, 45.0, 8.0),),
            "lift the cup": ((350.0, 278.0, 0.0, -45.0),),
            "push the saucer": ((424.0, 301.0, 40.0, 0.0),),
            "pull the gripper": ((445.0, 190.0, -50.0, 20.0),),
        },
    ),
    _plan(10.8, "lift the gripper", (366.0, 205.0, 0.0, -50.0)),
    _plan(13.4, "push the saucer", (424.0, 301.0, 40.0, 0.0)),
    Question(
        16.0,
        "push the cup off again",
        How.ONCE,
        {"push the cup": ((430.0, 287.0, -50.0, 5.0),)},
    ),
    _plan(16.1, "touch nothing"),
)
