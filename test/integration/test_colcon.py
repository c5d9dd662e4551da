"""The package builds in a colcon workspace, as on a ROS 2 machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

USE_THE_RESULT = """
import sys
import fpt_ros.core.errors, fpt_ros.share
from fpt_ros.action import FineTune
from fpt_ros.msg import MotionDistribution
from fpt_ros.srv import PredictMotion
from rclpy.serialization import deserialize_message, serialize_message
message = MotionDistribution(id="push")
assert deserialize_message(serialize_message(message), MotionDistribution) == message
print(fpt_ros.__file__, fpt_ros.share.shared_folder("launch"), sep="\\n")
"""


@pytest.mark.integration
def test_colcon_build_makes_a_working_package(tmp_path):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    if shutil.which("colcon", path=path) is None:
        pytest.skip("colcon is not installed: pip install 'fpt_ros[colcon]'")
    environment = {**os.environ, "PATH": path}
    options = [f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF"]
    if (Path(sys.prefix) / "share" / "rosidl_default_generators").is_dir():  # wheels
        environment.update(AMENT_PREFIX_PATH=sys.prefix, CMAKE_PREFIX_PATH=sys.prefix)
        options.append(f"-DCMAKE_PROJECT_INCLUDE={ROOT / 'cmake' / 'wheels.cmake'}")
    elif "AMENT_PREFIX_PATH" not in environment:
        pytest.skip("no ROS 2 environment: source its setup.bash first")

    # A copy: CMake refuses a Python environment that lies inside the source folder.
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "install", "log", "runs")
    shutil.copytree(ROOT, tmp_path / "src" / "fpt_ros", ignore=ignored)
    build = subprocess.run(
        ["colcon", "build", "--symlink-install", "--cmake-args", *options],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert build.returncode == 0, build.stdout

    def in_workspace(*words: str) -> str:
        script = 'source install/setup.bash && exec "$@"'
        command = ["bash", "-c", script, "bash", *words]
        return subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)

    package, launch = in_workspace(sys.executable, "-c", USE_THE_RESULT).split()
    installed = tmp_path / "install" / "fpt_ros"
    assert Path(package).is_relative_to(installed)
    assert Path(launch) == installed / "share" / "fpt_ros" / "launch"
    for folder in ("config", "launch"):
        files = {path.name for path in (ROOT / folder).iterdir() if path.is_file()}
        assert files <= {path.name for path in (installed / "share/fpt_ros" / folder).iterdir()}
    assert os.access(installed / "lib" / "fpt_ros" / "predictor_node", os.X_OK)
    for fpt in (installed / "bin" / "fpt", installed / "lib" / "fpt_ros" / "fpt"):
        assert "predict" in in_workspace(str(fpt), "--help")
