"""The package's descriptions agree with each other, and its interfaces with their sources."""

import array
import ast
import importlib.metadata
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from fpt_ros.msg import MotionDistribution

ROOT = Path(__file__).parents[1]
INTERFACE_KINDS = ("msg", "srv", "action")
INTERFACES = sorted(path for kind in INTERFACE_KINDS for path in ROOT.glob(f"{kind}/*"))


@pytest.fixture(scope="module")
def manifest() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


@pytest.fixture(scope="module")
def pyproject() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="reads pyproject.toml: Python 3.11 or newer")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def cmake_lists() -> str:
    return (ROOT / "CMakeLists.txt").read_text()


def ros_packages(requirements: list[str]) -> dict[str, str]:
    """Map the ROS packages among pip requirements to their versions."""
    pins = (re.fullmatch(r"ros-([\w-]+?)(?:\[\w+\])?==([\d.]+)", text) for text in requirements)
    return {pin[1].replace("-", "_"): pin[2] for pin in pins if pin}


def is_generated(path: Path) -> bool:
    """Whether an editable installation has put `path` into the source tree."""
    return path.relative_to(ROOT).parts[:2] in {("fpt_ros", kind) for kind in INTERFACE_KINDS}


def test_names_and_licence_agree(manifest, pyproject, cmake_lists):
    assert manifest.findtext("name") == pyproject["project"]["name"]
    assert f"project({manifest.findtext('name')})" in cmake_lists
    assert manifest.findtext("license") == pyproject["project"]["license"]


def test_ros_dependencies_are_declared_to_rosdep(manifest, pyproject):
    declared = {tag.text for kind in ("depend", "exec_depend") for tag in manifest.findall(kind)}
    assert ros_packages(pyproject["project"]["dependencies"]).keys() <= declared


def test_wheels_are_built_and_run_against_one_version(pyproject):
    project = pyproject["project"]
    build = ros_packages(pyproject["build-system"]["requires"])
    run = ros_packages(project["dependencies"])
    colcon = ros_packages(project["optional-dependencies"]["colcon"])
    assert {name: run[name] for name in build.keys() & run} == {
        name: build[name] for name in build.keys() & run
    }
    assert build.items() - run.items() <= colcon.items()


def test_requirements_file_repeats_the_project(pyproject):
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = {line for line in lines if line and not line.startswith("#")}
    assert required <= set(pyproject["project"]["dependencies"])


def test_imported_libraries_are_declared(pyproject):
    if "ros-rclpy" not in {dist.name for dist in importlib.metadata.distributions()}:
        pytest.skip("libraries of a ROS installation go by other names")
    project = pyproject["project"]
    requirements = sum(project["optional-dependencies"].values(), project["dependencies"])
    declared = {re.match(r"[\w.-]+", text)[0] for text in requirements}
    sources = [path for top in ("fpt_ros", "demo", "test") for path in (ROOT / top).rglob("*.py")]
    trees = [ast.parse(path.read_text()) for path in sources if not is_generated(path)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level
    }
    tops = {name.split(".")[0] for name in modules} - set(sys.stdlib_module_names)
    providers = importlib.metadata.packages_distributions()
    installed = tops & providers.keys() - {"fpt_ros"}
    assert {name: providers[name] for name in installed if not declared & {*providers[name]}} == {}


def test_executables_agree(pyproject, cmake_lists):
    installed = re.findall(r"install_script\((\w+) ([\w.]+) lib/", cmake_lists)
    scripts = pyproject["project"]["scripts"]
    assert {name: f"{module}:main" for name, module in installed} == scripts


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.stem)
def test_interface_is_generated_with_its_fields(path, cmake_lists):
    kind = path.parent.name
    assert f"  {kind}/{path.name}\n" in cmake_lists
    interface = getattr(importlib.import_module(f"fpt_ros.{kind}"), path.stem)
    parts = {"msg": [""], "srv": ["Request", "Response"], "action": ["Goal", "Result", "Feedback"]}
    for suffix, section in zip(parts[kind], path.read_text().split("\n---\n"), strict=True):
        fields = re.findall(r"^[\w/]+(?:\[\])? (\w+) *(?:#.*)?$", section, re.MULTILINE)
        message = getattr(interface, suffix) if suffix else interface
        assert list(message.get_fields_and_field_types()) == fields, "install the package again"


def test_status_and_flags_are_the_published_constants():
    statuses = ["OK", "NO_IMAGE", "STALE_IMAGE", "BAD_REQUEST", "DEADLINE_MISSED"]
    statuses += ["MODEL_ERROR", "OVER_CAPACITY"]
    assert [getattr(MotionDistribution, name) for name in statuses] == list(range(7))
    flags = ["OUTSIDE_ROI", "NONFINITE", "OUTSIDE_IMAGE", "CONTACT_OUTSIDE_ROI"]
    assert [getattr(MotionDistribution, name) for name in flags] == [1, 2, 4, 8]


def test_arrays_survive_serialization():
    serialization = pytest.importorskip("rclpy.serialization")
    means = np.linspace(-3, 3, 24, dtype=np.float32)
    message = MotionDistribution(id="push", status=MotionDistribution.STALE_IMAGE)
    message.means = array.array("f", means.tobytes())
    copy = serialization.deserialize_message(
        serialization.serialize_message(message), MotionDistribution
    )
    assert copy == message
    np.testing.assert_array_equal(np.asarray(copy.means, dtype=np.float32), means)
