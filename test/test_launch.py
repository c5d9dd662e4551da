"""Launch file and configuration: agreement with the node; a real launch where it is possible."""

import ast
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from fpt_ros.core.checkpoint import save_checkpoint
from fpt_ros.core.config import HeadConfig, ModelConfig, PyramidEncoderConfig, TransformerConfig
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.dds import profile_environment
from fpt_ros.nodes import pipeline
from fpt_ros.params import FINE_TUNE_TABLE, TABLE

ROOT = Path(__file__).parents[1]
LAUNCH_FILE = ROOT / "launch" / "predictor.launch.py"
FINE_TUNE_LAUNCH_FILE = LAUNCH_FILE.with_name("finetune.launch.py")
CONFIG = ROOT / "config"
LAUNCH_IS_HERE = importlib.util.find_spec("launch_ros") and shutil.which("ros2")

needs_launch = pytest.mark.skipif(
    not LAUNCH_IS_HERE, reason="launch_ros and ros2 are not installed: they come with ROS 2"
)


@pytest.mark.parametrize(
    ("file", "table"), [("predictor.yaml", TABLE), ("finetune.yaml", FINE_TUNE_TABLE)]
)
def test_parameter_file_is_the_table_with_a_comment_on_every_value(file, table):
    text = (CONFIG / file).read_text()
    values = YAML(typ="safe").load(text)["/**"]["ros__parameters"]
    assert values == {name: row.default for name, row in table.items()}
    assert {name: type(value) for name, value in values.items()} == {
        name: type(row.default) for name, row in table.items()
    }
    comments = dict(re.findall(r"((?: +#.*\n)+) +(\w+):", text))
    by_name = {name: comment.strip("# ") for comment, name in comments.items()}
    assert by_name.keys() == table.keys()
    for name, row in table.items():
        assert by_name[name].startswith("live:") == row.live, name
        for choice in row.choices:
            assert choice in by_name[name]


@pytest.mark.parametrize(
    ("launch_file", "header"),
    [
        (LAUNCH_FILE, "| argument | default | meaning |"),
        (FINE_TUNE_LAUNCH_FILE, "| argument of `finetune.launch.py` | meaning |"),
    ],
)
def test_launch_arguments_are_those_of_the_documentation(launch_file, header):
    tree = ast.parse(launch_file.read_text())
    declared = [
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DeclareLaunchArgument"
    ]
    readme = (LAUNCH_FILE.parents[1] / "README.md").read_text()
    table = readme.partition(header)[2].partition("\n\n")[0].partition("\n<!--")[0]
    documented = [
        name for row in table.splitlines()[2:] for name in re.findall("`(.*?)`", row.split("|")[1])
    ]
    assert declared == documented
    for name in ("checkpoint", "engine", "device", "autostart"):
        assert name in TABLE


def test_rviz_shows_topics_that_the_node_publishes():
    displays = YAML(typ="safe").load((CONFIG / "predictor.rviz").read_text())[
        "Visualization Manager"
    ]["Displays"]
    outputs = {
        pipeline.OVERLAY: "Image",
        pipeline.UNCERTAINTY: "Image",
        pipeline.MASK: "Image",
        pipeline.POINTS: "PointCloud2",
    }
    shown = {d["Topic"]["Value"]: d["Class"].rpartition("/")[2] for d in displays}
    assert shown == {f"predictor/{name}": kind for name, kind in outputs.items()}


def test_fast_dds_profile_has_room_for_a_4k_image():
    space = {"d": "http://www.eprosima.com"}
    profiles = ElementTree.parse(CONFIG / "fastdds.xml").getroot().find("d:profiles", space)
    assert profiles is not None
    transports = {
        transport.findtext("d:transport_id", None, space): transport
        for transport in profiles.findall("d:transport_descriptors/d:transport_descriptor", space)
    }
    used = profiles.findall("d:participant/d:rtps/d:userTransports/d:transport_id", space)
    assert {transport.text for transport in used} == set(transports)
    kinds = {t.findtext("d:type", None, space): t for t in transports.values()}
    assert set(kinds) == {"SHM", "UDPv4"}
    assert int(kinds["SHM"].findtext("d:segment_size", "0", space)) > 3840 * 2160 * 3


def test_the_profile_is_used_unless_the_user_chose_otherwise():
    ours = profile_environment({})
    assert len(ours) == 1
    (name,) = ours
    assert ours[name] == str(CONFIG / "fastdds.xml")
    assert profile_environment({"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}) == ours
    assert profile_environment({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}) == {}
    for variable in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        assert profile_environment({variable: "/mine.xml"}) == {}
        assert profile_environment({variable: ""}) == ours
    # A profile that names transports would override these.
    assert profile_environment({"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"}) == {}
    assert profile_environment({"FASTDDS_BUILTIN_TRANSPORTS": ""}) == ours


# ---- with the real launch -----------------------------------------------------------------------


@pytest.fixture
def launch_actions(monkeypatch, tmp_path):
    """Return what a launch file would do, given arguments; names in it may be replaced."""
    from launch import LaunchContext
    from launch.actions import DeclareLaunchArgument

    for variable in (
        "FASTDDS_DEFAULT_PROFILES_FILE",
        "FASTDDS_BUILTIN_TRANSPORTS",
        "RMW_IMPLEMENTATION",
    ):
        monkeypatch.delenv(variable, raising=False)
    params = tmp_path / "mine.yaml"
    params.write_text("/**: {ros__parameters: {}}")

    def actions(launch_file: Path, replaced: dict | None = None, **given: str) -> list:
        spec = importlib.util.spec_from_file_location(
            launch_file.name.replace(".", "_"), launch_file
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, stand_in in (replaced or {}).items():
            monkeypatch.setattr(module, name, stand_in)
        context = LaunchContext()
        context.launch_configurations.update({"params_file": str(params), **given})
        for argument in module.ARGUMENTS:
            assert isinstance(argument, DeclareLaunchArgument)
            argument.execute(context)
        return module.start(context)

    return actions


@needs_launch
def test_the_profile_is_for_rviz_only_and_not_for_what_else_is_launched(launch_actions):
    from launch_ros.actions import LifecycleNode, Node

    (node,) = launch_actions(LAUNCH_FILE, image="/cam/image", device="cpu")
    assert type(node) is LifecycleNode
    (node,) = launch_actions(FINE_TUNE_LAUNCH_FILE, bag="kitchen")
    assert type(node) is Node
    as_given = {"Node": dict, "LifecycleNode": dict}
    rviz, node = launch_actions(LAUNCH_FILE, as_given, rviz="true")
    assert rviz["additional_env"] == profile_environment({}) != {}
    assert "additional_env" not in node  # its main sets the profile


@needs_launch
@pytest.mark.parametrize(
    ("given", "expected"),
    [("", {}), ("true", {"use_sim_time": True}), ("false", {"use_sim_time": False})],
)
def test_the_clock_is_left_to_others_unless_given(launch_actions, given, expected):
    as_given = {"Node": dict, "LifecycleNode": dict}
    rviz, node = launch_actions(LAUNCH_FILE, as_given, rviz="true", use_sim_time=given)
    assert rviz["parameters"] == [expected]
    assert node["parameters"][1] == expected


@needs_launch
@pytest.mark.parametrize(
    ("launch_file", "name", "value"),
    [
        (LAUNCH_FILE, "params_file", "/gone.yaml"),
        (LAUNCH_FILE, "autostart", "maybe"),
        (LAUNCH_FILE, "surprise_period_s", "often"),
        (FINE_TUNE_LAUNCH_FILE, "params_file", "/gone.yaml"),
        (FINE_TUNE_LAUNCH_FILE, "promote", "maybe"),
        (FINE_TUNE_LAUNCH_FILE, "budget_minutes", "ten"),
    ],
)
def test_an_impossible_argument_is_named(launch_actions, launch_file, name, value):
    with pytest.raises(RuntimeError) as refusal:
        launch_actions(launch_file, **{name: value})
    assert name in str(refusal.value)
    assert value in str(refusal.value)


@needs_launch
def test_a_launched_node_gets_its_arguments_becomes_active_and_ends_cleanly(tmp_path):
    torch.manual_seed(0)
    tiny = ModelConfig(
        PyramidEncoderConfig(input_px=64, width=32, depth=1, heads=2),
        TransformerConfig(width=32, depth=1, d_head=16),
        HeadConfig(n_components=2),
    )
    save_checkpoint(tmp_path / "tiny.safetensors", FlowPokeModel(tiny))
    command = ["ros2", "launch", str(LAUNCH_FILE), f"checkpoint:={tmp_path}/tiny.safetensors"]
    launch = subprocess.Popen(
        [*command, "namespace:=robot", "image:=/cam/image_raw", "surprise_dir:=2026"],
        env=os.environ | {"ROS_LOG_DIR": str(tmp_path / "log")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(launch.stdout), daemon=True)
    reader.start()

    def ask(*words: str) -> str:
        return subprocess.run(
            ["ros2", *words, "--no-daemon", "--spin-time", "3"],
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout

    state = ""
    deadline_s = time.monotonic() + 120
    while "active" not in state.split() and time.monotonic() < deadline_s:
        state = ask("lifecycle", "get", "/robot/predictor")
    images = ask("topic", "info", "/cam/image_raw")
    folder = ask("param", "get", "/robot/predictor", "surprise_dir")
    launch.send_signal(signal.SIGINT)
    assert launch.wait(30) == 0, "".join(lines)
    reader.join(10)
    assert "active" in state.split(), "".join(lines)
    assert "Subscription count: 1" in images
    assert "String value is: 2026" in folder  # as YAML it would be a number
    assert "process has finished cleanly" in "".join(lines)
    assert "Traceback" not in "".join(lines)
