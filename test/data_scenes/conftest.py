import os
from pathlib import Path

import pytest

import fpt_ros.data.scenes  # noqa: F401  chooses MUJOCO_GL before anything imports mujoco


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ["MUJOCO_GL"] == "off":
        skip = pytest.mark.skip(reason="no EGL: apt-get install libegl1 libgl1-mesa-dri")
        for item in items:
            if item.path.parent == Path(__file__).parent:
                item.add_marker(skip)
