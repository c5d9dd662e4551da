"""The parameters of the nodes: one table for each node, from which all else follows.

The fields of `Settings` and `FineTuneSettings` give names, types and defaults; their metadata
ranges, choices, descriptions and whether a value can change while the node runs. A node declares
its parameters from its table, checks values against it, and the README shows it (`markdown_table`).
Needs no ROS except to make descriptors.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rcl_interfaces.msg import ParameterDescriptor


def _parameter(
    default: Any,
    description: str,
    *,
    limits: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
    read_only: bool = False,
) -> Any:
    metadata = {
        "description": description,
        "limits": limits,
        "choices": choices,
        "live": live,
        "read_only": read_only,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """Values of all parameters of the predictor node at one time.

    `live` ones may change while the node is configured.
    """

    checkpoint: str = _parameter(
        "",
        "File with the weights (.safetensors, or an official .pt), never downloaded; empty = those "
        "that come with the package.",
    )
    model_dir: str = _parameter(
        "", "Folder that ~/load_model may load from; empty = the service refuses everything."
    )
    engine: str = _parameter(
        "auto",
        "What runs the network; auto: the fastest for the machine. PyTorch serves while it is "
        "built, and if it fails.",
        choices=("auto", "openvino", "tensorrt", "cuda", "torch"),
    )
    precision: str = _parameter(
        "auto",
        "In which numbers; auto: the fastest that lose nothing that matters.",
        choices=("auto", "fp32", "bf16", "fp16", "int8"),
    )
    engine_dir: str = _parameter(
        "", "Folder where built engines are kept; empty = ~/.cache/fpt_ros/engines."
    )
    build_only: bool = _parameter(False, "Build the engine, if it is not there, and end.")
    device: str = _parameter("auto", "auto (a GPU if there is one), cpu, cuda or cuda:N.")
    num_threads: int = _parameter(
        0, "CPU threads of the network; 0 = one per core.", limits=(0, 256)
    )
    autostart: bool = _parameter(
        True, "Configure and activate at start; otherwise wait for lifecycle transitions."
    )
    image_transport: str = _parameter(
        "raw",
        "raw: subscribe to `image`; compressed: to `image/compressed`.",
        choices=("raw", "compressed"),
    )
    image_qos: str = _parameter(
        "sensor_data",
        "sensor_data (best effort) or reliable; depth 1 either way.",
        choices=("sensor_data", "reliable"),
    )
    camera_static: bool = _parameter(
        True, "The camera stands still over the horizon; false if it may move.", live=True
    )
    grid_size: int = _parameter(
        32,
        "n of the n x n grid of the images and of requests without query points.",
        limits=(2, 128),
        live=True,
    )
    moving_part_threshold_nats: float = _parameter(
        0.5,  # as core.parts.PartCriterion
        "The plan changes the distribution of a point of the moving part by more (KL).",
        limits=(0.0, 1000.0),
        live=True,
    )
    moving_part_probability: float = _parameter(
        0.4,  # as core.parts.PartCriterion
        "A point of the moving part moves by 1 % of the side of what the model sees at least this "
        "likely.",
        limits=(0.0, 1.0),
        live=True,
    )
    refine_tolerance_px: float = _parameter(
        0.0,
        "The grid of the images is refined where interpolated displacements or deviations would be "
        "off by more, and along the border of the moving part; 0 = not refined.",
        limits=(0.0, 1000.0),
        live=True,
    )
    max_image_age_s: float = _parameter(
        5.0,
        "Older images (by the node's clock) are answered STALE_IMAGE; 0 = no limit.",
        limits=(0.0, 1e9),
        live=True,
    )
    max_rate_hz: float = _parameter(
        0.0,
        "Most images per second to process; 0 = as many as the model manages.",
        limits=(0.0, 1000.0),
        live=True,
    )
    frame_history: int = _parameter(
        8,
        "Images kept for requests that name a stamp: as many received and as many encoded "
        "(FPT-Base: 75 MB each).",
        limits=(1, 256),
        live=True,
    )
    request_queue_size: int = _parameter(
        32,
        "Requests that may wait; more are answered OVER_CAPACITY.",
        limits=(1, 10000),
        live=True,
    )
    max_pokes: int = _parameter(
        128, "Most pokes of a candidate; more are a BAD_REQUEST.", limits=(1, 10000), live=True
    )
    max_candidates: int = _parameter(
        256, "Most candidates of a what-if; more are a BAD_REQUEST.", limits=(1, 10000), live=True
    )
    max_distributions: int = _parameter(
        65536,
        "Most candidates times points of an answer; more are a BAD_REQUEST.",
        limits=(1, 1 << 22),
        live=True,
    )
    surprise_period_s: float = _parameter(
        0.0,
        "Judge predictions by what then moved (~/surprise), at most once in so many seconds and "
        "after each executed contact; 0 = never.",
        limits=(0.0, 1e6),
        live=True,
    )
    surprise_threshold_nats: float = _parameter(
        10.0,
        "Images are kept in surprise_dir if `surprise` is at least this.",
        limits=(-1000.0, 1e6),
        live=True,
    )
    surprise_dir: str = _parameter(
        "",
        "Folder for small bags of surprising images, for fine-tuning; empty = keep none.",
        live=True,
    )
    surprise_dir_mb: float = _parameter(
        1000.0,
        "What that folder may hold, in MB; the oldest bags make room for new ones.",
        limits=(1.0, 1e6),
        live=True,
    )


@dataclass(frozen=True)
class FineTuneSettings:
    """Values of all parameters of the fine-tuning node. A goal takes those of its beginning.

    Read-only ones describe the goal that the node begins with.
    """

    output_dir: str = _parameter(
        "~/.ros/fpt_finetune",
        "Folder for everything that is made, one folder in it for each goal. For the result to be "
        "loaded by the predictor, its `model_dir` must be this folder.",
        live=True,
    )
    base_checkpoint: str = _parameter(
        "",
        "Weights to start from if a goal names none; empty = `promoted.safetensors` in "
        "`output_dir`, which is what the predictor took over last, or, before there is one, those "
        "that come with the package.",
        live=True,
    )
    rehearsal: str = _parameter(
        "",
        "Folder with synthetic shards of `fpt scenes`, against forgetting; empty = a small one is "
        "made for each goal, if this machine can render.",
        live=True,
    )
    horizon_s: float = _parameter(
        0.0,
        "Time that displacements of the recording span; 0 = that of the base. Where the synthetic "
        "data has another, nothing is promoted.",
        limits=(0.0, 5.0),
        live=True,
    )
    budget_minutes: float = _parameter(
        10.0, "Training time if a goal names none.", limits=(0.01, 1e5), live=True
    )
    forget_percent: float = _parameter(
        5.0,
        "By how many percent a promoted model's errors on the synthetic test may have risen.",
        limits=(0.0, 1000.0),
        live=True,
    )
    predictor: str = _parameter(
        "predictor", "Name of the predictor node that may load the result.", live=True
    )
    device: str = _parameter(
        "auto", "auto (a GPU if there is one), cpu, cuda or cuda:N.", live=True
    )
    num_threads: int = _parameter(
        1, "CPU threads of the training; 0 = one per core.", limits=(0, 256), live=True
    )
    niceness: int = _parameter(
        10, "How much the training steps back behind other programs.", limits=(0, 19), live=True
    )
    bag: str = _parameter(
        "",
        "At start only: recording to begin with, as a goal would; empty = wait for goals.",
        read_only=True,
    )
    topic: str = _parameter(
        "", "At start only: image topic of `bag`; empty = every camera's.", read_only=True
    )
    promote: bool = _parameter(
        False,
        "At start only: let the predictor load what comes of `bag`, if it passes the gate.",
        read_only=True,
    )


@dataclass(frozen=True)
class Parameter:
    """One row of the table."""

    name: str
    default: Any  # bool, int, float or str
    description: str
    limits: tuple[float, float] | None
    choices: tuple[str, ...]
    live: bool
    read_only: bool  # set when the node starts, or never

    def refusal(self, value: Any, *, configured: bool) -> str | None:
        """Say why the parameter cannot have this value now; None if it can.

        configured: the node holds a model, so that only live parameters may change.
        """
        value, wanted = self.widened(value), type(self.default)
        if type(value) is not wanted:
            return f"{self.name} must be {_TYPE_NAMES[wanted]}, got {value!r}"
        if self.limits and not self.limits[0] <= value <= self.limits[1]:  # refuses NaN too
            return (
                f"{self.name} must be from {self.limits[0]:.7g} to {self.limits[1]:.7g}, "
                f"got {value!r}"
            )
        if self.choices and value not in self.choices:
            return f"{self.name} must be one of {', '.join(self.choices)}, got {value!r}"
        if configured and not self.live:
            return (
                f"{self.name} cannot change while the node holds a model; clean it up first "
                "(ros2 lifecycle set <node> deactivate, then cleanup)"
            )
        return None

    def widened(self, value: Any) -> Any:
        """Return 5.0 for `5` where a number is wanted: no mistake in YAML or on a command line."""
        return float(value) if type(value) is int and type(self.default) is float else value

    def descriptor(self) -> "ParameterDescriptor":
        """Describe the parameter for tools such as `ros2 param describe`."""
        from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

        constraints = [f"One of {', '.join(self.choices)}."] if self.choices else []
        if not (self.live or self.read_only):
            constraints.append("Changes only while the node is unconfigured.")
        result = ParameterDescriptor(
            name=self.name,
            description=self.description,
            additional_constraints=" ".join(constraints),
            read_only=self.read_only,
            dynamic_typing=True,  # types are checked by `refusal`, which is kinder to `5`
        )
        if self.limits and isinstance(self.default, float):
            low, high = self.limits
            result.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        elif self.limits:
            low, high = map(int, self.limits)
            result.integer_range = [IntegerRange(from_value=low, to_value=high)]
        return result


Table = Mapping[str, Parameter]
AnySettings = TypeVar("AnySettings", Settings, FineTuneSettings)


def _table(settings: type) -> Table:
    return {
        entry.name: Parameter(entry.name, default=entry.default, **entry.metadata)
        for entry in fields(settings)
    }


TABLE = _table(Settings)
FINE_TUNE_TABLE = _table(FineTuneSettings)


def changed(settings: AnySettings, values: Mapping[str, Any]) -> AnySettings:
    """Return the settings with some values replaced; other nodes' parameters are ignored."""
    table = _table(type(settings))
    known = {name: table[name].widened(v) for name, v in values.items() if name in table}
    return replace(settings, **known)


def markdown_table(table: Table = TABLE) -> str:
    """Return a table of parameters for the README."""
    rows = ["| parameter | default | range | live | meaning |", "|---|---|---|---|---|"]
    for row in table.values():
        span = (
            f"{row.limits[0]:.7g} … {row.limits[1]:.7g}" if row.limits else ", ".join(row.choices)
        )
        default, live = json.dumps(row.default), "yes" if row.live else "no"
        rows.append(f"| `{row.name}` | `{default}` | {span} | {live} | {row.description} |")
    return "\n".join(rows) + "\n"


_TYPE_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
}
