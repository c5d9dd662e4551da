"""Start the predictor node on a camera.

    ros2 launch fpt_ros predictor.launch.py image:=/camera/image_raw checkpoint:=my.safetensors
    ros2 launch fpt_ros predictor.launch.py --show-args

An argument left empty leaves the value to the parameter file.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.substitutions import FindPackageShare

from fpt_ros.dds import profile_environment

NODE_NAME = "predictor"
SHARE = FindPackageShare("fpt_ros")
SWITCH = ("true", "false")
ARGUMENTS = [
    DeclareLaunchArgument("image", default_value="image", description="topic with raw images"),
    DeclareLaunchArgument(
        "compressed",
        default_value="",
        choices=("", *SWITCH),
        description="true: subscribe to <image>/compressed instead",
    ),
    DeclareLaunchArgument(
        "camera_info",
        default_value="",
        description="topic with the calibration; empty: camera_info next to the images",
    ),
    DeclareLaunchArgument(
        "depth",
        default_value="depth",
        description="topic with depth images; while nobody publishes there, points lie 1 m away",
    ),
    DeclareLaunchArgument("checkpoint", default_value="", description="file with the weights"),
    DeclareLaunchArgument("engine", default_value="", description="what runs the network"),
    DeclareLaunchArgument("device", default_value="", description="auto, cpu, cuda or cuda:N"),
    DeclareLaunchArgument(
        "build_only",
        default_value="false",
        choices=SWITCH,
        description="build the engine, if it is not there, and end",
    ),
    DeclareLaunchArgument(
        "surprise_period_s",
        default_value="",
        description="judge predictions by what then moved, once in so many seconds",
    ),
    DeclareLaunchArgument(
        "surprise_dir", default_value="", description="folder for bags of surprising images"
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=PathJoinSubstitution([SHARE, "config", "predictor.yaml"]),
        description="values of all parameters; those that it lacks have their defaults",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="of the node and its topics"),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="",
        choices=("", *SWITCH),
        description="take the time from /clock, as for recordings and simulators; empty: as the "
        "parameter file says, or a SetParameter around this file",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="",
        choices=("", *SWITCH),
        description="false: wait for `ros2 lifecycle set` to configure and activate",
    ),
    DeclareLaunchArgument("rviz", default_value="false", choices=SWITCH, description="show it"),
    DeclareLaunchArgument(
        "rviz_frame",
        default_value="",
        description="fixed frame of RViz: the frame_id of the images, or one that tf joins to it; "
        "empty: camera_optical_frame",
    ),
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
    image = values["image"]
    beside_the_images = f"{image.rpartition('/')[0]}/camera_info" if "/" in image else "camera_info"
    clock = {"use_sim_time": values["use_sim_time"] == "true"} if values["use_sim_time"] else {}
    overrides: dict[str, bool | float | str] = {**clock}
    given = ("checkpoint", "engine", "device", "surprise_dir")
    overrides |= {name: values[name] for name in given if values[name]}
    if text := values["surprise_period_s"]:
        try:
            overrides["surprise_period_s"] = float(text)
        except ValueError:
            raise RuntimeError(f"surprise_period_s: {text!r} is no number") from None
    if values["build_only"] == "true":
        overrides["build_only"] = True
    if values["autostart"]:
        overrides["autostart"] = values["autostart"] == "true"
    if values["compressed"]:
        overrides["image_transport"] = "compressed" if values["compressed"] == "true" else "raw"
    actions: list[LaunchDescriptionEntity] = []
    if values["rviz"] == "true":  # first, so that nothing runs yet if RViz is not installed
        fixed_frame = ["-f", values["rviz_frame"]] if values["rviz_frame"] else []
        actions.append(
            Node(
                package="rviz2",
                executable="rviz2",
                namespace=values["namespace"],
                arguments=[
                    *("-d", PathJoinSubstitution([SHARE, "config", "predictor.rviz"])),
                    *fixed_frame,
                ],
                parameters=[clock],
                # For large images; the predictor does it by itself.
                additional_env=profile_environment(context.environment),
            )
        )
    actions.append(
        LifecycleNode(
            package="fpt_ros",
            executable="predictor_node",
            name=NODE_NAME,
            namespace=values["namespace"],
            parameters=[values["params_file"], overrides],
            remappings=[
                ("image", image),
                ("image/compressed", f"{image}/compressed"),
                ("camera_info", values["camera_info"] or beside_the_images),
                ("depth", values["depth"]),
            ],
            ros_arguments=["--log-level", values["log_level"]],
            output="screen",
            emulate_tty=True,
        )
    )
    return actions
