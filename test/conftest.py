"""What holds for all tests: a ROS world of their own, the order, and as much time as they need."""

import os
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import settings

# On a busy machine any example may take longer than the 200 ms that Hypothesis allows.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# Each test process hears only itself and the processes that it starts.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


# What a ROS 2 machine lacks where nothing is trained, and what cannot be tested without.
_MISSING = [
    name
    for name in ("av", "matplotlib", "mujoco", "scipy", "skimage", "tensorboard")
    if find_spec(name) is None
]
_TRAINING = [
    *("bench", "data_clips", "data_scenes", "evaluate", "train"),
    *("cli/test_main.py", "nodes/test_finetune_node.py", "nodes/test_training_process.py"),
    *("test_demo.py", "test_demo_finetune.py"),
]
collect_ignore = _TRAINING if _MISSING else []


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was left out; a header would not show with -q."""
    if _MISSING:
        terminalreporter.write_line(
            f"NOT TESTED for want of {', '.join(_MISSING)}: {', '.join(_TRAINING)}"
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes first: one that takes long must not be the last to begin."""
    first = {item.path for item in items if item.get_closest_marker("integration")}
    items.sort(key=lambda item: item.path not in first)
