"""Heat maps with a label at every row and column, quick enough to draw at each evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from PIL import Image

from lmlab.display.for_tensorboard.summaries import visible

DPI = 100
CELL, LETTER = 13, 6  # pixels: a row, and the width of a letter in its label of 7 points
# Of 5 points, where there are many: two tables of 65 fit beside TensorBoard's list of runs on a
# screen of 1,366 pixels.
SMALL_CELL, SMALL_LETTER = 7, 4
MANY = 40
LONGEST = 8  # letters of a label; the rest is cut off

# A picture has 256 colours, since a pixel of one byte is encoded in a seventh of the time: those of
# the cells, grey for what cannot be, and the shades of the letters.
LEVELS = 192
COLOURS = colormaps["YlGnBu"].resampled(LEVELS)
CANNOT_BE, PAPER = (235, 235, 235), (255, 255, 255)
# On a straight scale a row that spreads its weight over 30 tokens looks as empty as none at all.
SCALE = PowerNorm(0.4, vmin=0, vmax=1)
TICKS = (0, 0.01, 0.05, 0.2, 0.5, 1)
KEY_WIDTH, KEY_HEIGHT = 250, 10  # pixels of the scale's bar


class HeatMaps:
    """Maps of one shape that share their labels, in one picture.

    matplotlib takes its time for text and axes, which never change: they are drawn once, and each
    picture is a copy of that with its cells filled in.
    """

    def __init__(
        self, rows: Sequence[str], columns: Sequence[str], titles: Sequence[str], across: str
    ):
        """`rows` and `columns` are tokens, `across` says what a column is to its row."""
        many = max(len(rows), len(columns)) > MANY
        cell, letter, size = (SMALL_CELL, SMALL_LETTER, 5) if many else (CELL, LETTER, 7)
        font = FontProperties(family="DejaVu Sans Mono", size=size)
        known = set(get_font(findfont(font)).get_charmap())
        row_labels, column_labels = ([_label(t, known) for t in some] for some in (rows, columns))
        n_across = math.ceil(math.sqrt(len(titles)))
        n_down = math.ceil(len(titles) / n_across)
        self._cell, width, height = cell, cell * len(columns), cell * len(rows)
        left, below = (
            34 + letter * max(map(len, labels)) for labels in (row_labels, column_labels)
        )
        gap, margin, above, scale = 10 if many else 20, 4, 25, 34
        total_width = left + max(n_across * (width + gap) - gap + margin, KEY_WIDTH + 20)
        total_height = scale + n_down * (above + height) + below
        figure = Figure((total_width / DPI, total_height / DPI), DPI)

        def place(x: int, y: int, w: int, h: int) -> Axes:
            """Axes with their upper left corner at pixel (x, y)."""
            y = total_height - y - h
            return figure.add_axes(
                (x / total_width, y / total_height, w / total_width, h / total_height)
            )

        text: dict[str, Any] = {"fontproperties": font, "parse_math": False}
        self._corners = []
        for i, title in enumerate(titles):
            down, right = divmod(i, n_across)
            x, y = left + right * (width + gap), scale + above + down * (height + above)
            self._corners.append((y, x))
            axes = place(x, y, width, height)
            axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.set_title(title, fontsize=8, pad=3)
            axes.tick_params(length=0, pad=2)
            if right == 0:
                axes.set_yticks(range(len(rows)), row_labels, **text)
                axes.set_ylabel("token", fontsize=7, labelpad=5)
            if i + n_across >= len(titles):  # the lowest of its column
                turned = 90 if max(map(len, column_labels)) > 1 else 0
                axes.set_xticks(range(len(columns)), column_labels, rotation=turned, **text)
                axes.set_xlabel(across, fontsize=7, labelpad=1)
        # It stands above on the left: what is wider than the page is cut off on the right.
        key = place(left, 5, KEY_WIDTH, KEY_HEIGHT)
        figure.colorbar(ScalarMappable(SCALE, COLOURS), key, ticks=TICKS, orientation="horizontal")
        key.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS], fontsize=7)
        key.tick_params(pad=2)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        self._empty = _indexed(np.asarray(canvas.buffer_rgba())[..., :3])

    def draw(self, maps: np.ndarray) -> Image.Image:
        """The picture of maps (n, rows, columns), each value in [0, 1] or NaN where there can be
        none."""
        pixels = np.array(self._empty)
        levels = np.floor(np.ma.filled(SCALE(np.ma.masked_invalid(maps)), 0.0) * LEVELS)
        levels = np.where(np.isnan(maps), LEVELS, levels.clip(max=LEVELS - 1)).astype(np.uint8)
        for (y, x), cells in zip(self._corners, levels, strict=True):
            large = cells.repeat(self._cell, axis=0).repeat(self._cell, axis=1)
            pixels[y : y + large.shape[0], x : x + large.shape[1]] = large
        picture = Image.fromarray(pixels, "P")
        picture.putpalette(self._empty.getpalette() or [])
        return picture


def _indexed(pixels: np.ndarray) -> Image.Image:
    """Pixels (height, width, 3) by their place in a palette that begins with the cells' colours."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    of_cells = COLOURS(np.arange(LEVELS), bytes=True)[:, :3].tolist()
    first = [part for colour in (*of_cells, CANNOT_BE, PAPER) for part in colour]
    others = picture.quantize(256 - len(first) // 3).getpalette() or []
    like = Image.new("P", (1, 1))
    like.putpalette(first + others)
    return picture.quantize(palette=like, dither=Image.Dither.NONE)


def _label(token: str, known: set[int]) -> str:
    """A token as it can be seen; a character that the font lacks is shown by its number."""
    letters = visible(token[:LONGEST])
    return "".join(c if ord(c) in known else f"{ord(c):x}" for c in letters)
