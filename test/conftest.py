"""What holds for all tests: a ROS world of their own, the order, and as much time as they need."""

import os

import pytest
from hypothesis import settings

# On a busy machine any example may take longer than the 200 ms that Hypothesis allows.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# Each test process hears only itself and the processes that it starts.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes first: one that takes long must not be the last to begin."""
    first = {item.path for item in items if item.get_closest_marker("integration")}
    items.sort(key=lambda item: item.path not in first)
