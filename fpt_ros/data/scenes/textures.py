"""Procedural surface pictures: wood, tiles, cloth, metal, stone, stripes, print.

Every function takes a generator and a base colour (float RGB in [0, 1]) and returns a uint8
picture [n, n, 3]. They imitate what surfaces of rooms and workshops look like; nothing is loaded.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator
Colour = NDArray[np.float64]
Picture = NDArray[np.uint8]


def noise(rng: Rng, n: int, cells_x: int, cells_y: int, octaves: int = 3) -> NDArray[np.float32]:
    """Smooth fractal noise [n, n] in [-1, 1]; cells_x and cells_y set the coarsest period."""
    total = np.zeros((n, n), np.float32)
    for octave in range(octaves):
        shape = (max(2, cells_y << octave), max(2, cells_x << octave))
        grid = rng.uniform(-1, 1, shape).astype(np.float32)
        total += cv2.resize(grid, (n, n), interpolation=cv2.INTER_CUBIC) * 0.5**octave
    return np.clip(total / 1.4, -1, 1)


def _shade(base: Colour, value: NDArray[np.floating]) -> Picture:
    """Base colour made lighter or darker by value [n, n] (0 = unchanged)."""
    return np.clip(255 * base * (1 + value[..., None]), 0, 255).astype(np.uint8)


def _blend(a: Colour, b: Colour, weight: NDArray[np.floating]) -> Picture:
    mixed = a + (b - a) * weight[..., None]
    return np.clip(255 * mixed, 0, 255).astype(np.uint8)


def plain(rng: Rng, base: Colour, n: int) -> Picture:
    """Paint or plastic: one colour, hardly visible unevenness."""
    return _shade(base, rng.uniform(0.0, 0.03) * noise(rng, n, 3, 3, 2))


def cloudy(rng: Rng, base: Colour, n: int) -> Picture:
    """Plaster, worn paint, stained concrete."""
    cells = int(rng.integers(2, 12))
    return _shade(base, rng.uniform(0.05, 0.25) * noise(rng, n, cells, cells, 5))


def wood(rng: Rng, base: Colour, n: int) -> Picture:
    """Grain along y: warped rings plus fine fibres."""
    warp = noise(rng, n, 2, 1, 3) * rng.uniform(0.3, 1.2)
    x = np.linspace(0, rng.uniform(1, 5), n, dtype=np.float32)[None, :]
    rings = np.sin(2 * np.pi * (x + warp)) * rng.uniform(0.02, 0.14)
    fibres = noise(rng, n, n // 3, 3, 2) * rng.uniform(0.03, 0.12)
    return _shade(base, rings + fibres)


def planks(rng: Rng, base: Colour, n: int) -> Picture:
    """Boards side by side, each with its own tone, dark joints between them."""
    boards = int(rng.integers(3, 9))
    value = noise(rng, n, n // 4, 3, 2) * rng.uniform(0.03, 0.12)
    edges = np.linspace(0, n, boards + 1).astype(int)
    for left, right in itertools.pairwise(edges):
        value[:, left:right] += rng.normal(0, 0.08)
        value[:, left : left + max(1, n // 96)] = -0.5
        value[int(rng.integers(n)) % n, left:right] = -0.45
    return _shade(base, value)


def tiles(rng: Rng, base: Colour, n: int) -> Picture:
    """Square or brick-laid tiles with grout."""
    rows = int(rng.integers(2, 8))
    columns = rows if rng.random() < 0.6 else max(1, rows // 2)
    grout = max(1, int(n * rng.uniform(0.008, 0.02)))
    offset = rng.random() < 0.4
    value = np.zeros((n, n), np.float32)
    tone = rng.uniform(0, 0.12)
    contrast = rng.uniform(0.15, 0.5) if rng.random() < 0.2 else 0.0
    line = rng.uniform(-0.5, 0.3)
    h, w = n / rows, n / columns
    for i in range(rows):
        y0, y1 = int(i * h), int((i + 1) * h)
        for j in range(columns):
            x0, x1 = int(j * w), int((j + 1) * w)
            value[y0:y1, x0:x1] = rng.normal(0, tone) - contrast * ((i + j) % 2)
        for j in range(columns):
            x0 = int((j + (0.5 if offset and i % 2 else 0)) * w)
            value[y0:y1, x0 : x0 + grout] = line
        value[y0 : y0 + grout] = line
    return _shade(base, value + 0.04 * noise(rng, n, 8, 8, 3))


def stripes(rng: Rng, base: Colour, n: int) -> Picture:
    """Parallel or crossed bands of a second colour (cloth, wallpaper, decor)."""
    second = np.clip(base + rng.normal(0, 0.25, 3), 0, 1)
    t = np.arange(n) * rng.integers(2, 14) / n
    band = (t % 1.0 < rng.uniform(0.15, 0.6)).astype(np.float32)
    weight = np.broadcast_to(band[None, :], (n, n)) * rng.uniform(0.3, 1.0)
    if rng.random() < 0.4:
        weight = (weight + weight.T) / 2
    return _blend(base, second, weight + 0.04 * noise(rng, n, n // 3, n // 3, 1))


def speckle(rng: Rng, base: Colour, n: int) -> Picture:
    """Granite, terrazzo, coarse carpet."""
    second = np.clip(base * rng.uniform(0.3, 1.6), 0, 1)
    cells = n // int(rng.integers(2, 6))
    weight = np.clip(0.5 + noise(rng, n, cells, cells, 2) * 1.5 - rng.uniform(0, 0.5), 0, 1)
    return _blend(base, second, weight * rng.uniform(0.3, 0.9))


def brushed(rng: Rng, base: Colour, n: int) -> Picture:
    """Brushed metal: fine lines and a broad sheen."""
    lines = noise(rng, n, 2, n // 2, 2) * rng.uniform(0.03, 0.1)
    sheen = np.sin(np.linspace(0, np.pi * rng.uniform(0.5, 3), n) + rng.uniform(0, 6))
    return _shade(base, lines + 0.12 * sheen[None, :].astype(np.float32))


def weave(rng: Rng, base: Colour, n: int) -> Picture:
    """Cloth or wicker: crossing threads."""
    t = 2 * np.pi * np.arange(n) * int(rng.integers(10, 32)) / n
    pattern = np.sin(t)[None, :] * np.sin(t)[:, None] * rng.uniform(0.05, 0.2)
    return _shade(base, pattern + 0.08 * noise(rng, n, 6, 6, 3))


def cardboard(rng: Rng, base: Colour, n: int) -> Picture:
    """Brown board, sometimes with tape or a printed label."""
    picture = _shade(base, 0.05 * noise(rng, n, n // 2, 4, 2) + 0.04 * noise(rng, n, 3, 3, 3))
    if rng.random() < 0.4:
        x = int(rng.uniform(0.35, 0.55) * n)
        picture[:, x : x + n // 9] = 0.6 * picture[:, x : x + n // 9] + 0.4 * np.array(
            [205, 180, 130]
        )
    if rng.random() < 0.5:
        _draw_print(rng, picture, int(rng.integers(2, 6)))
    return picture


def label(rng: Rng, base: Colour, n: int) -> Picture:
    """Packaging: coloured fields, lines of print, a round emblem."""
    picture = plain(rng, base, n)
    _draw_print(rng, picture, int(rng.integers(4, 14)))
    return picture


def poster(rng: Rng, base: Colour, n: int) -> Picture:
    """A picture on a wall or a screen: smooth colour clouds and a few shapes."""
    channels = [noise(rng, n, 2, 2, 4) for _ in range(3)]
    picture = np.clip(255 * (base + 0.35 * np.stack(channels, -1)), 0, 255).astype(np.uint8)
    _draw_print(rng, picture, int(rng.integers(3, 10)))
    return picture


def _draw_print(rng: Rng, picture: Picture, marks: int) -> None:
    """Draw fields, discs and text-like rows in place."""
    n = len(picture)
    for _ in range(marks):
        ink = tuple(int(v) for v in rng.integers(0, 256, 3))
        x, y = (int(v) for v in rng.uniform(0.02, 0.8, 2) * n)
        w, h = (int(v) for v in rng.uniform(0.05, 0.5, 2) * n)
        kind = rng.random()
        if kind < 0.35:
            cv2.rectangle(picture, (x, y), (x + w, y + h // 2), ink, -1)
        elif kind < 0.55:
            cv2.circle(picture, (x, y), max(2, w // 3), ink, -1 if rng.random() < 0.5 else 2)
        else:
            step = max(3, n // 40)
            for row in range(y, min(n, y + h), 2 * step):
                column = x
                while column < x + w:
                    word = int(rng.integers(2, 9)) * max(1, step // 2)
                    cv2.rectangle(picture, (column, row), (column + word, row + step), ink, -1)
                    column += word + step


def keyboard(rng: Rng, base: Colour, n: int) -> Picture:
    """Rows of keys on a darker or lighter plate, with a pad below them."""
    picture = plain(rng, base, n)
    key = tuple(int(v) for v in np.clip(255 * base * rng.uniform(0.3, 0.7), 0, 255))
    rows, columns = int(rng.integers(4, 7)), int(rng.integers(10, 15))
    top, height = int(0.08 * n), int(0.5 * n)
    for i in range(rows):
        for j in range(columns):
            x0, x1 = (
                int(n * (0.06 + 0.88 * j / columns)),
                int(n * (0.06 + 0.88 * (j + 0.8) / columns)),
            )
            y0, y1 = top + height * i // rows, top + int(height * (i + 0.8) / rows)
            cv2.rectangle(picture, (x0, y0), (x1, y1), key, -1)
    pad = tuple(int(v) for v in np.clip(255 * base * rng.uniform(0.7, 1.2), 0, 255))
    cv2.rectangle(picture, (int(0.35 * n), int(0.65 * n)), (int(0.65 * n), int(0.93 * n)), pad, -1)
    return picture


def gradient(rng: Rng, base: Colour, n: int) -> Picture:
    """Sky, lit wall or glass: one colour running into another."""
    second = np.clip(base + rng.normal(0, 0.2, 3), 0, 1)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:n, :n] / n - 0.5
    return _blend(base, second, np.clip(0.5 + x * np.cos(angle) + y * np.sin(angle), 0, 1))


PATTERNS: dict[str, Callable[[Rng, Colour, int], Picture]] = {
    "plain": plain,
    "cloudy": cloudy,
    "wood": wood,
    "planks": planks,
    "tiles": tiles,
    "stripes": stripes,
    "speckle": speckle,
    "brushed": brushed,
    "weave": weave,
    "cardboard": cardboard,
    "label": label,
    "poster": poster,
    "keyboard": keyboard,
    "gradient": gradient,
}
