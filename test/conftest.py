"""The order of the tests."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes first: one that takes long must not be the last to begin."""
    first = {item.path for item in items if item.get_closest_marker("integration")}
    items.sort(key=lambda item: item.path not in first)
