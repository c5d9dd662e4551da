"""The core works in a notebook: it imports no ROS, simulator or GUI package, and no compiler."""

import subprocess
import sys

IMPORT_ALL = """
import importlib, pkgutil, sys
import fpt_ros.core
for module in pkgutil.walk_packages(fpt_ros.core.__path__, "fpt_ros.core."):
    importlib.import_module(module.name)
    print("imported", module.name)
for preset in (fpt_ros.core.config.FPT_SMALL, fpt_ros.core.config.FPT_BASE):
    fpt_ros.core.checkpoint._empty_model(preset)  # as before any weights are loaded
print(*sys.modules)
"""
FORBIDDEN = {"rclpy", "cv_bridge", "cv2", "mujoco", "launch", "ament_index_python"}


def test_core_imports_no_ros():
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    *imported, modules = result.stdout.splitlines()
    assert "imported fpt_ros.core.mixture" in imported
    offending = []
    for name in modules.split():
        package = name.split(".")[0]
        ros = package in FORBIDDEN or package.startswith("rosidl")
        messages = package.endswith(("_msgs", "_interfaces"))
        outside = package == "fpt_ros" and name not in ("fpt_ros", "fpt_ros.core")
        if ros or messages or (outside and not name.startswith("fpt_ros.core.")):
            offending.append(name)
    assert not offending
    assert "torch._dynamo" not in modules.split()  # PyTorch's compiler: a second to import
