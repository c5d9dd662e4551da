"""Everything that decides a training run, in one dataclass that travels in its checkpoints."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.data.augment import AugmentConfig

_RULES: dict[str, Callable[[float], bool]] = {  # none of which holds for NaN
    "at least 1": lambda value: value >= 1,
    "at least 0": lambda value: value >= 0,
    "positive and finite": lambda value: 0 < value < math.inf,
    "in [0, 1)": lambda value: 0 <= value < 1,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "in (0, 1]": lambda value: 0 < value <= 1,
}


def require(settings: object, rule: str, *names: str) -> None:
    """Raise InvalidInputError naming the first of these attributes that breaks one of `_RULES`."""
    for name in names:
        value = getattr(settings, name)
        if not _RULES[rule](value):
            raise InvalidInputError(f"{name} must be {rule}, not {value}")


@dataclass(frozen=True)
class SelectionConfig:
    """Which points become pokes and queries."""

    pokes: int = 4
    """Longest poke sequence: the nested sets hold 0, 1, ... pokes."""
    queries: int = 10
    """Queries for each of the nested sets."""
    many_pokes: int = 24
    """Longest poke sequence of the occasional batch that teaches long sequences."""
    many_queries: int = 2
    many_every: int = 8
    """Every so many steps the batch is such a one; 0: never."""
    min_motion: float = 0.005
    """Displacement, in unit-square units, from which a point counts as moving. Less than
    `core.parts.MOVING`, for what moves a little, near a hinge say, is to be learned too."""
    first_poke_moves: float = 0.85
    """Share of sequences whose first poke lies where something moves, long motions preferred."""
    other_pokes_move: float = 0.4
    """Share of the other pokes that lie where something moves; the rest is uniform."""
    queries_on_parts: float = 0.25
    """Share of queries on what can move, as the part ids say. Never on what does move: the model
    would learn that whatever is asked about moves. Without part ids all queries are uniform."""
    queries_at_borders: float = 0.15
    """Share of queries within two cells of a border of parts; the rest is uniform."""
    part_points: int = 128
    """Points per view for the part loss."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, naming them."""
        numbers = ("pokes", "queries", "many_pokes", "many_queries", "part_points")
        shares = ("first_poke_moves", "other_pokes_move", "queries_on_parts", "queries_at_borders")
        require(self, "at least 1", *numbers)
        require(self, "at least 0", "many_every")
        require(self, "in [0, 1]", "min_motion", *shares)
        if self.queries_on_parts + self.queries_at_borders > 1:
            raise InvalidInputError("queries_on_parts and queries_at_borders add up to more than 1")


@dataclass(frozen=True)
class TrainConfig:
    """Train a flow poke model on shards of synthetic or tracked motion.

    Interrupted runs continue with --resume. Several processes: `torchrun --nproc-per-node N -m
    fpt_ros.cli.train ...`; the global batch stays what --batch says.
    """

    data: Path
    """Folder with train-*.tar and val-*.tar, as `fpt scenes` writes them."""
    out: Path
    """Folder for checkpoints and TensorBoard logs."""
    model: str = "small"
    """`small`, `base` (the published network), or a JSON file with a model configuration."""
    init: Path | None = None
    """Checkpoint to start from instead of random weights. Its network must be the model's, but for
    input_px and min_std; a pyramid encoder may have had fewer blocks."""
    resume: bool = False
    """Continue the run in `out`."""

    steps: int = 50_000
    """Optimizer steps, over which the schedule is spread."""
    minutes: float | None = None
    """Stop after this training time instead, with the schedule spread over it. Convenient, but the
    loss curve then depends on the machine's speed; --steps is reproducible."""

    rehearsal: Path | None = None
    """Folder with other train-*.tar to mix in, so that what they teach is not forgotten."""
    rehearsal_share: float = 0.5
    """Share of the views that come from there."""

    batch: int = 16
    """Views per optimizer step, over all processes."""
    outcomes: int = 2
    """Outcomes drawn per view; they share the encoded image."""
    accumulate: int = 1
    """Forward passes per optimizer step and process: each sees batch / accumulate / processes."""
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    part_weight: float = 0.3
    """Weight of the part loss: which points belong to the same movable part. 0: off, as published;
    leave it off for data that does not know its parts."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: the hidden matrices by Muon (Jordan et al., 2024), in steps as large as those of AdamW
    (Liu et al., 2025), and the rest by AdamW. Learns more from a step; needs PyTorch 2.9."""
    learning_rate: float = 7e-4
    encoder_rate: float = 1.0
    """Factor on the learning rate of the image encoder."""
    head_rate: float = 0.3
    """Factor on the learning rate of the last linear map: it sets displacements to fractions of a
    pixel, and full-size steps make them jitter."""
    warmup: float = 0.06
    """Share of the run over which the learning rate rises."""
    schedule: Literal["cosine", "thirds"] = "cosine"
    """What follows: a cosine to zero, or halved after each third of the run."""
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest gradient norm."""
    ema: float = 0.998
    """Decay of the averaged weights, which are what is validated and shipped; 0: off."""
    max_bad_steps: int = 20
    """Stop after so many steps in a row with a loss or gradient that is not finite."""

    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bfloat16 autocast where the hardware multiplies it natively, else float32."""
    device: str = "auto"
    """auto: CUDA when present."""
    threads: int = 0
    """CPU threads per process; 0: PyTorch's choice."""
    workers: int = 1
    """Loader processes per training process; 0: load in the training process."""

    checkpoint_minutes: float = 4.0
    validate_minutes: float = 5.0
    validate_steps: int = 0
    """Validate every so many steps too; 0: by the clock alone. With --patience, a run is the same
    run every time only if the clock does not validate."""
    patience: int = 0
    """Stop after so many validations in a row that are not the best; 0: never."""
    val_views: int = 96
    """Validation views, one outcome each, spread evenly over the split."""
    val_grid: int = 32
    """Validation points per side."""
    log_every: int = 20
    """Steps between TensorBoard entries."""
    licence: str = "Apache-2.0"
    """Licence of the weights, written into the checkpoint."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, naming them."""
        require(self, "at least 1", "steps", "batch", "outcomes", "accumulate", "max_bad_steps")
        require(self, "at least 1", "val_views", "val_grid", "log_every")
        require(self, "at least 0", "part_weight", "encoder_rate", "head_rate", "weight_decay")
        require(self, "at least 0", "seed", "threads", "workers", "validate_steps", "patience")
        require(self, "at least 0", "checkpoint_minutes", "validate_minutes")
        require(self, "positive and finite", "learning_rate", "clip")
        require(self, "in [0, 1)", "warmup", "ema", "rehearsal_share", "beta1", "beta2")
        if self.minutes is not None:
            require(self, "positive and finite", "minutes")
        augment = self.augment
        require(augment, "in [0, 1]", "p_flip", "p_rotate", "p_crop", "p_blur", "p_noise")
        require(augment, "in [0, 1]", "p_jpeg", "brightness", "contrast", "saturation")
        require(augment, "in (0, 1]", "min_crop")
        require(augment, "at least 0", "max_angle_deg", "hue_deg", "gamma", "max_noise")
        require(augment, "positive and finite", "max_blur_px")

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, fit for JSON and for `torch.load(weights_only=True)`."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=str))


# Changing these does not change what a step computes. `steps` and `minutes` do: the learning rate
# is a function of the share of them that is done.
_FREE_ON_RESUME = {
    "data", "out", "init", "resume", "rehearsal", "accumulate", "max_bad_steps", "device",
    "threads", "workers", "checkpoint_minutes", "validate_minutes", "validate_steps", "patience",
    "val_views", "val_grid", "log_every", "licence",
}  # fmt: skip


def check_resumable(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise InvalidInputError naming every setting that would bend a resumed loss curve.

    Settings that a run from before they existed does not know had the values of their defaults.
    """
    old = _flat(TrainConfig(Path(), Path()).to_dict()) | _flat(old)
    new = _flat(new)
    changed = [
        f"{name}: {old.get(name)!r} -> {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if name not in _FREE_ON_RESUME and old.get(name) != new.get(name)
    ]
    if changed:
        raise InvalidInputError(
            "cannot resume with other settings than the run began with ("
            + "; ".join(changed)
            + "). Restore them; to go on longer or otherwise, start a new run from its weights "
            "with --init"
        )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return flat
