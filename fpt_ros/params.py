"""The parameters of the predictor node: one table, from which all else follows.

The fields of `Settings` give names, types and defaults; their metadata ranges, choices,
descriptions and whether a value can change while the node runs. The node declares its parameters
from this table, checks values against it, and the README shows it (`markdown_table`). Needs no ROS
except to make descriptors.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rcl_interfaces.msg import ParameterDescriptor


def _parameter(
    default: Any,
    description: str,
    *,
    limits: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    return field(
        default=default,
        metadata={"description": description, "limits": limits, "choices": choices, "live": live},
    )


@dataclass(frozen=True)
class Settings:
    """Values of all parameters at one time. `live` ones may change while the node is configured."""

    checkpoint: str = _parameter(
        "",
        "File with the weights (.safetensors, or an official .pt), never downloaded; empty = those "
        "that come with the package.",
    )
    model_dir: str = _parameter(
        "", "Folder that ~/load_model may load from; empty = the service refuses everything."
    )
    engine: str = _parameter("torch", "What runs the network.", choices=("torch",))
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
        1.0,  # as core.parts.DEFAULT_THRESHOLD_NATS
        "A point belongs to the moving part if the plan changes its distribution by more (KL).",
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


@dataclass(frozen=True)
class Parameter:
    """One row of the table."""

    name: str
    default: Any  # bool, int, float or str
    description: str
    limits: tuple[float, float] | None
    choices: tuple[str, ...]
    live: bool

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
                "(ros2 lifecycle set <node> cleanup)"
            )
        return None

    def widened(self, value: Any) -> Any:
        """Return 5.0 for `5` where a number is wanted: no mistake in YAML or on a command line."""
        return float(value) if type(value) is int and type(self.default) is float else value

    def descriptor(self) -> "ParameterDescriptor":
        """Describe the parameter for tools such as `ros2 param describe`."""
        from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

        constraints = [f"One of {', '.join(self.choices)}."] if self.choices else []
        if not self.live:
            constraints.append("Changes only while the node is unconfigured.")
        result = ParameterDescriptor(
            name=self.name,
            description=self.description,
            additional_constraints=" ".join(constraints),
            dynamic_typing=True,  # types are checked by `refusal`, which is kinder to `5`
        )
        if self.limits and isinstance(self.default, float):
            low, high = self.limits
            result.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        elif self.limits:
            low, high = map(int, self.limits)
            result.integer_range = [IntegerRange(from_value=low, to_value=high)]
        return result


TABLE = {
    name: Parameter(name, default=getattr(Settings, name), **entry.metadata)
    for name, entry in ((entry.name, entry) for entry in fields(Settings))
}


def changed(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Return the settings with some values replaced; other nodes' parameters are ignored."""
    known = {name: TABLE[name].widened(v) for name, v in values.items() if name in TABLE}
    return replace(settings, **known)


def markdown_table() -> str:
    """Return the table of parameters for the README."""
    rows = ["| parameter | default | range | live | meaning |", "|---|---|---|---|---|"]
    for row in TABLE.values():
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
