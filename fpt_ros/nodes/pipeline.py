"""From image message and question to answer messages, with one model on one device. No topics."""

import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from fpt_ros import convert, draw
from fpt_ros.core.checkpoint import Checkpoint
from fpt_ros.core.engine import TorchEngine
from fpt_ros.core.errors import EngineError, FptError, InvalidInputError
from fpt_ros.core.motion import Motion
from fpt_ros.core.parts import PartCriterion, influence, moving_part_of_grid
from fpt_ros.core.predictor import EncodedFrame, MotionPredictor
from fpt_ros.engines.choose import Service
from fpt_ros.images import image_to_pixels, image_to_rgb
from fpt_ros.msg import ModelInfo, MotionDistribution
from fpt_ros.params import Settings

# The outputs for the standing plan, as topics below the node's name.
MOTION = "motion"
UNCERTAINTY = "uncertainty"
MASK = "moving_part/mask"
SCORE = "moving_part/score"
POINTS = "motion_points"
OVERLAY = "overlay"

ImageMessage: TypeAlias = Image | CompressedImage
Output: TypeAlias = MotionDistribution | Image | PointCloud2

_TORCH_THREADS = torch.get_num_threads()  # as PyTorch chose

# In the overlay the brightest arrows are this long, relative to what the model sees.
_BRIGHTEST = 0.2


@dataclass(frozen=True)
class Surroundings:
    """What a pipeline asks the node about, at the time it needs it, from the worker thread."""

    settings: Callable[[], Settings]
    listened_to: Callable[[], Collection[str]]  # outputs that somebody subscribes to
    camera: Callable[[], CameraInfo]  # may raise InvalidInputError
    # Of the image with this header; None where there is no depth camera. May raise
    # InvalidInputError.
    depth: Callable[[Header], Image | None]
    on_problem: Callable[[str, str], None]  # told a kind and a text
    check: Callable[[], None]  # raises if the answer is not waited for any more


class PredictorPipeline:
    """A model, ready to use. Create and use it on one thread only."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        service: Service,
        surroundings: Surroundings,
        on_failure: Callable[["PredictorPipeline", EngineError], None],
    ) -> None:
        """Run the network once. on_failure is told when the engine cannot go on.

        Raises EngineError if the engine fails at once.
        """
        self._surroundings = surroundings
        self._on_failure = on_failure
        self.checkpoint = checkpoint
        self.service = service
        self.predictor = MotionPredictor(
            service.engine,
            horizon_s=checkpoint.horizon_s,
            model_id=checkpoint.sha256[:12],
            between_chunks=surroundings.check,
        )
        # PyTorch has little to do beside another engine on a CPU, and its threads spin while they
        # wait.
        is_beside = service.engine.name != TorchEngine.name and service.engine.device.type == "cpu"
        n_threads = surroundings.settings().num_threads or _TORCH_THREADS
        self._torch_threads = 1 if is_beside else n_threads
        with self._typed():
            blank = self.predictor.encode_image(np.zeros((480, 640, 3), np.uint8))
            n = surroundings.settings().grid_size
            self.predictor.predict_grid([[320, 240, 10, 0]], n, frame=blank)

    def encode(self, image: ImageMessage) -> EncodedFrame:
        """Decode and encode an image. Raises InvalidInputError."""
        on_gpu = self.service.engine.device.type != "cpu"
        with self._watched():
            return self.predictor.encode_image(image_to_pixels(image, on_gpu))

    def answer(
        self, image: ImageMessage, encoded: EncodedFrame, question: convert.Question
    ) -> MotionDistribution:
        """Answer one request. Raises InvalidInputError."""
        start_s = time.perf_counter()
        with self._watched():
            motion = self._predict(encoded, question)
        return self._message(motion, image, question, start_s)

    def follow(
        self, image: ImageMessage, encoded: EncodedFrame, question: convert.Question
    ) -> dict[str, Output]:
        """Compute the outputs that somebody listens to. Raises InvalidInputError."""
        with self._watched():
            return self._follow(image, encoded, question)

    def _follow(
        self, image: ImageMessage, encoded: EncodedFrame, question: convert.Question
    ) -> dict[str, Output]:
        wanted = set(self._surroundings.listened_to())
        outputs: dict[str, Output] = {}
        on_grid = None
        if MOTION in wanted:
            start_s = time.perf_counter()
            motion = self._predict(encoded, question)
            outputs[MOTION] = self._message(motion, image, question, start_s)
            on_grid = motion if question.queries is None else None
        if wanted - {MOTION}:
            if on_grid is None:
                on_grid = self._predict(encoded, replace(question, queries=None))
            outputs |= self._pictures(wanted, image, encoded, question, on_grid)
        return outputs

    def _pictures(
        self,
        wanted: set[str],
        image: ImageMessage,
        encoded: EncodedFrame,
        question: convert.Question,
        motion: Motion,
    ) -> dict[str, Output]:
        """Build the outputs that are made from the motion of the grid."""
        settings, header, transform = self._surroundings.settings(), image.header, motion.transform
        outputs: dict[str, Output] = {}
        n = math.isqrt(len(motion.points_px))
        criterion = PartCriterion(
            settings.moving_part_threshold_nats, settings.moving_part_probability
        )
        refined = None
        if settings.refine_tolerance_px and wanted & {UNCERTAINTY, MASK, SCORE, OVERLAY}:
            refined = self.predictor.dense_maps(
                question.candidates[0],
                n,
                settings.refine_tolerance_px,
                criterion,
                settings.camera_static,
                encoded,
            )
        if UNCERTAINTY in wanted:
            deviation = (
                refined.uncertainty_px
                if refined
                else transform.paste(motion.mixture.std().reshape(n, n), math.nan)
            )
            outputs[UNCERTAINTY] = convert.map_to_msg(deviation, header)
        if wanted <= {MOTION, UNCERTAINTY}:
            return outputs
        if refined is None or POINTS in wanted:
            unpoked = self.predictor.unconditional_grid(n, settings.camera_static, encoded)
            score = influence(motion.on_device, unpoked.on_device).reshape(n, n)
        if wanted & {MASK, OVERLAY}:
            if refined:
                mask = refined.parts.mask
            else:
                mask = moving_part_of_grid(score, motion.on_device, transform, criterion)
        if MASK in wanted:
            outputs[MASK] = convert.map_to_msg(mask, header)
        if SCORE in wanted:
            score_map = refined.parts.score if refined else transform.paste(score, math.nan)
            outputs[SCORE] = convert.map_to_msg(score_map, header)
        if OVERLAY in wanted:
            picture = self._overlay(image, question, motion, mask)
            outputs[OVERLAY] = convert.map_to_msg(picture, header)
        if POINTS in wanted:
            try:
                outputs[POINTS] = self._cloud(motion, score, header)
            except InvalidInputError as error:  # not the question's fault
                self._surroundings.on_problem(f"no {POINTS}", str(error))
        return outputs

    def _cloud(self, motion: Motion, score: NDArray[np.float32], header: Header) -> PointCloud2:
        camera = self._surroundings.camera()
        depth = self._surroundings.depth(header)
        return convert.cloud_to_msg(motion, score, header, camera, depth)

    def info(self, header: Header) -> ModelInfo:
        """Describe the model."""
        engine, checkpoint = self.service.engine, self.checkpoint
        config = engine.config
        return ModelInfo(
            header=header,
            model_id=self.predictor.model_id,
            checkpoint=str(checkpoint.path),
            weights_sha256=checkpoint.sha256,
            license=checkpoint.licence,
            input_size=config.encoder.input_px,
            num_components=config.head.n_components,
            horizon=convert.duration(checkpoint.horizon_s),
            engine=engine.name,
            engine_key=engine.key,
            device=str(engine.device),
            parity_error=engine.parity_error,
        )

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Tell when the engine cannot go on."""
        try:
            with self._typed():
                yield
        except EngineError as error:
            self._on_failure(self, error)
            raise

    @contextmanager
    def _typed(self) -> Iterator[None]:
        """Give PyTorch its threads; turn what it raises on a GPU into EngineError.

        Outside of the engine as well.
        """
        torch.set_num_threads(self._torch_threads)  # this pipeline may take turns with another
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, FptError) or self.service.engine.device.type != "cuda":
                raise
            reason = str(error).partition("\n")[0]
            raise EngineError(f"the GPU failed: {reason}") from error

    def _predict(self, encoded: EncodedFrame, question: convert.Question) -> Motion:
        settings = self._surroundings.settings()
        static = settings.camera_static
        if len(question.candidates) == 1:  # its errors speak of pokes[i]; the grid may be cached
            (pokes,) = question.candidates
            if question.queries is None:
                return self.predictor.predict_grid(pokes, settings.grid_size, static, encoded)
            return self.predictor.predict(pokes, question.queries, static, encoded)
        queries = question.queries
        if queries is None:
            queries = encoded.transform.grid(settings.grid_size)
        return self.predictor.predict_candidates(question.candidates, queries, static, encoded)

    def _message(
        self, motion: Motion, image: ImageMessage, question: convert.Question, start_s: float
    ) -> MotionDistribution:
        compute_s = time.perf_counter() - start_s
        return convert.motion_to_msg(
            motion, image.header, question.id, self.predictor.model_id, compute_s
        )

    def _overlay(
        self,
        image: ImageMessage,
        question: convert.Question,
        motion: Motion,
        mask: NDArray[np.bool_],
    ) -> NDArray[np.uint8]:
        side_px = motion.transform.roi[2]
        return draw.overview(
            image_to_rgb(image),
            pokes=question.candidates[0],
            points_px=motion.points_px,
            displacements_px=motion.mixture.mean().numpy(),
            mask=mask,
            roi=motion.transform.roi,
            lines=[question.id] if question.id else [],
            longest_px=_BRIGHTEST * side_px,
        )
