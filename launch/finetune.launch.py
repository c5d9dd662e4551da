"""Start the fine-tuning node, and fine-tune on a recording if one is given.

    ros2 launch fpt_ros finetune.launch.py bag:=recording/ promote:=true
    ros2 launch fpt_ros finetune.launch.py --show-args

An argument left empty leaves the value to the parameter file.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

NODE_NAME = "finetune"
SHARE = FindPackageShare("fpt_ros")
PARAMETERS = ("bag", "topic", "base_checkpoint", "output_dir", "rehearsal", "predictor", "device")
ARGUMENTS = [
    DeclareLaunchArgument(
        "bag", default_value="", description="recording to begin with; empty: wait for goals"
    ),
    DeclareLaunchArgument(
        "topic", default_value="", description="image topic of it; empty: those of every camera"
    ),
    DeclareLaunchArgument(
        "promote",
        default_value="",
        choices=("", "true", "false"),
        description="true: the predictor loads the result if it is better",
    ),
    DeclareLaunchArgument(
        "budget_minutes", default_value="", description="training time, in minutes"
    ),
    DeclareLaunchArgument(
        "base_checkpoint", default_value="", description="file with the weights to start from"
    ),
    DeclareLaunchArgument("output_dir", default_value="", description="folder for the results"),
    DeclareLaunchArgument(
        "rehearsal", default_value="", description="folder with synthetic shards"
    ),
    DeclareLaunchArgument("predictor", default_value="", description="name of the predictor node"),
    DeclareLaunchArgument("device", default_value="", description="auto, cpu, cuda or cuda:N"),
    DeclareLaunchArgument(
        "params_file",
        default_value=PathJoinSubstitution([SHARE, "config", "finetune.yaml"]),
        description="values of all parameters",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="of the node and its action"),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=("debug", "info", "warn", "error", "fatal"),
        description="least severe messages to print",
    ),
]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; their values are read when the launch begins."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Return the actions for the values that the arguments have."""
    values = {
        argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS
    }
    if not Path(values["params_file"]).is_file():  # launch_ros would only warn
        raise RuntimeError(f"params_file: there is no file {values['params_file']!r}")
    overrides: dict[str, bool | float | str] = {
        name: values[name] for name in PARAMETERS if values[name]
    }
    if values["promote"]:
        overrides["promote"] = values["promote"] == "true"
    if text := values["budget_minutes"]:
        try:
            overrides["budget_minutes"] = float(text)
        except ValueError:
            raise RuntimeError(f"budget_minutes: {text!r} is no number") from None
    return [
        Node(
            package="fpt_ros",
            executable="finetune_node",
            name=NODE_NAME,
            namespace=values["namespace"],
            parameters=[values["params_file"], overrides],
            ros_arguments=["--log-level", values["log_level"]],
            output="screen",
            emulate_tty=True,
            sigterm_timeout="40",  # for the checkpoint of a large network; usually 5
        ),
    ]
