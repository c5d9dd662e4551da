"""Videos, and folders of images, as footage."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np

from fpt_ros.core.errors import InvalidInputError, machine_trouble
from fpt_ros.data.frames import Frame, short_reason
from fpt_ros.images import MAX_COMPRESSED_PIXELS, picture_to_rgb

PICTURE_SUFFIXES = {".jpeg", ".jpg", ".png"}
VIDEO_SUFFIXES = {".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}

_CHECKED_PICTURES = 24
# Pictures may grow on the way: FFmpeg refuses them before it allocates anything.
_VIDEO_OPTIONS = {"max_pixels": str(MAX_COMPRESSED_PIXELS)}
_MAX_PICTURE_BYTES = 4 * MAX_COMPRESSED_PIXELS


class VideoFile:
    """A video that FFmpeg reads.

    Raises:
        InvalidInputError: it is no video, holds no pictures, or too large ones.
        OSError: its file cannot be read.
    """

    start_ns: int | None = None
    damages: Sequence[str] = ()

    def __init__(self, name: str, path: Path) -> None:
        import av

        self.name = name
        self._path = path
        path.open("rb").close()
        try:
            with av.open(str(path)) as video:
                stream = video.streams.video[0]
                times = [
                    float(packet.pts * stream.time_base)
                    for packet in video.demux(stream)
                    if packet.pts is not None and stream.time_base is not None
                ]
                rate = stream.average_rate or stream.guessed_rate
                width, height = stream.codec_context.width, stream.codec_context.height
        except (av.FFmpegError, OSError, IndexError, ValueError) as error:
            raise InvalidInputError(f"{path} is no video that can be read: {error}") from error
        if not times:
            raise InvalidInputError(f"{path} holds no pictures")
        if width * height > MAX_COMPRESSED_PIXELS:
            raise InvalidInputError(
                f"{path} claims pictures of {width} x {height} px; up to {MAX_COMPRESSED_PIXELS} "
                "px are accepted"
            )
        self._first_s = min(times)
        self.duration_s = max(times) - self._first_s + (1 / float(rate) if rate else 0.0)
        self._clock = "pts" if self._is_shown_in_order() else "dts"

    def _is_shown_in_order(self) -> bool:
        """Whether times of showing rise, as they must.

        Some writers put the times of decoding there; those rise, by the same steps.
        """
        import av

        with suppress(av.FFmpegError), av.open(str(self._path)) as video:
            stream = video.streams.video[0]
            stream.codec_context.options = _VIDEO_OPTIONS
            times = [each.pts for each in islice(video.decode(stream), _CHECKED_PICTURES)]
            known = [time for time in times if time is not None]
            return known == sorted(known)
        return True

    def frames(self, start_s: float, stop_s: float, skipped: Counter[str]) -> Iterator[Frame]:
        """See Footage."""
        import av

        with av.open(str(self._path)) as video:
            stream = video.streams.video[0]
            assert stream.time_base is not None
            stream.codec_context.options = _VIDEO_OPTIONS
            if start_s > 1:
                try:
                    video.seek(round((start_s + self._first_s) / stream.time_base), stream=stream)
                except av.FFmpegError:  # some formats cannot: read from the beginning
                    video.seek(0)
            before_s = -np.inf
            for packet in video.demux(stream):
                try:
                    pictures = packet.decode()
                except av.FFmpegError:
                    skipped["undecodable picture"] += 1
                    continue
                for picture in pictures:
                    time: int | None = getattr(picture, self._clock)
                    if time is None:
                        skipped["picture without a time"] += 1
                        continue
                    time_s = float(time * stream.time_base) - self._first_s
                    if time_s >= stop_s:
                        return
                    if time_s < start_s:
                        continue
                    follows, before_s = time_s > before_s, time_s
                    yield Frame(time_s, time_s, follows, picture.to_ndarray(format="rgb24"))


class PictureFolder:
    """A folder of JPEG and PNG images in the order of the numbers in their names."""

    start_ns: int | None = None
    damages: Sequence[str] = ()

    def __init__(self, name: str, path: Path, rate_hz: float) -> None:
        self.name = name
        files = [file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES]
        self._files = sorted(files, key=_natural_order)
        self._rate_hz = rate_hz
        self.duration_s = len(files) / rate_hz

    def frames(self, start_s: float, stop_s: float, skipped: Counter[str]) -> Iterator[Frame]:
        """See Footage."""
        first, stop = (int(np.ceil(t * self._rate_hz - 1e-6)) for t in (start_s, stop_s))
        for number, file in enumerate(self._files[first:stop], first):
            try:
                if file.stat().st_size > _MAX_PICTURE_BYTES:
                    raise InvalidInputError("the file is too large")
                rgb = picture_to_rgb(file.read_bytes())
            except (InvalidInputError, OSError) as error:
                is_dead_link = isinstance(error, FileNotFoundError) and file.is_symlink()
                if machine_trouble(error) and not is_dead_link:
                    raise
                skipped[f"undecodable image ({short_reason(error)})"] += 1
                continue
            time_s = number / self._rate_hz
            yield Frame(time_s, time_s, True, rgb)


def _natural_order(file: Path) -> list[tuple[bool, int, str]]:
    """Sort img2 before img10."""
    parts = re.split(r"(\d+)", file.name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
