"""Style and output of plots: a palette for light and dark pages, plain axes, PNG files and inline SVG.

A figure is drawn once, in the light palette. In its SVG, colours are replaced by CSS variables, so that they follow the
page. The PNG file keeps the light colours.
"""

import io
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# name -> (light, dark). The first six are the subjects' colours, in the order of `colours`.
PALETTE = {
    "blue": ("#2f6db0", "#7db2ea"),
    "orange": ("#c9661b", "#f0a063"),
    "green": ("#2f8a5b", "#74c69d"),
    "purple": ("#7857a8", "#b9a0e3"),
    "pink": ("#c43d7f", "#f08fbe"),
    "olive": ("#7d7410", "#d2c658"),
    "ink": ("#24313f", "#dde4ea"),
    "muted": ("#69788a", "#95a3b1"),
    "line": ("#dce2e8", "#333e49"),
    "shade": ("#eef2f5", "#232b33"),
    "paper": ("#ffffff", "#171d23"),
    "good": ("#1f7a4d", "#63c893"),
    "bad": ("#b3301f", "#f28b7d"),
}
SUBJECT_COLOURS = ("blue", "orange", "green", "purple", "pink", "olive")
LIGHT = {name: light for name, (light, _) in PALETTE.items()}
INK, MUTED, LINE, SHADE, PAPER = (LIGHT[name] for name in ("ink", "muted", "line", "shade", "paper"))
# Colours of the two sides of a comparison, which belong to no subject.
GOOD, BAD = LIGHT["good"], LIGHT["bad"]
WIDTH, HEIGHT = 5.4, 3.1
# Up to this number of points a line is drawn with them: a single one would be invisible.
FEW_POINTS = 10
# Height of a legend's row in points; number of characters above which three labels do not fit into a row.
ROW_POINTS, LONG_LABEL = 13, 18
STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.02,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Plot:
    """A figure with the caption that explains how to read it."""

    name: str
    """name of the PNG file, without suffix"""
    caption: str
    figure: Figure

    def save(self, folder: Path) -> None:
        """Write `folder`/name.png."""
        with style(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # in names; the browser's fonts have them
            self.figure.savefig(folder / f"{self.name}.png", dpi=144)

    @property
    def svg(self) -> str:
        """The figure as an <svg> element whose colours are CSS variables --blue, --ink and so on."""
        file = io.StringIO()
        with mpl.rc_context({**STYLE, "svg.hashsalt": self.name}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            self.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        svg = file.getvalue()
        svg = svg[svg.index("<svg") :]
        for name, (light, _) in PALETTE.items():
            svg = svg.replace(light, f"var(--{name})")
        # Use the page's font, size the figure by its viewBox, and remove ids that other figures also have.
        svg = re.sub(r"font: ((?:\w+ )*)([\d.]+)px [^;\"]*", r"font: \1\2px var(--font)", svg)
        svg = re.sub(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
        return re.sub(r'<g id="[^"]*"', "<g", svg)


def colours(names: Iterable[str], reference: str | None = None) -> dict[str, str]:
    """Return {name: colour name} by position, with the reference first. Colours repeat after six names."""
    ordered = sorted(names, key=lambda name: name != reference)
    return dict(zip(ordered, cycle(SUBJECT_COLOURS), strict=False))


def style() -> AbstractContextManager[None]:
    """Return a context with the plots' settings. Create figures in it, since matplotlib reads settings on creation."""
    return mpl.rc_context(STYLE)


def canvas(rows: int = 1, *, share: bool = True) -> tuple[Figure, list[Axes]]:
    """Create a figure with `rows` panels, one above the other; `share` makes them share the x axis."""
    figure = Figure(figsize=(WIDTH, HEIGHT if rows == 1 else HEIGHT * 0.68 * rows))
    return figure, list(figure.subplots(rows, 1, sharex=share, squeeze=False)[:, 0])


def curve(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str, label: str | None = None) -> None:
    """Draw a line, with its points if they are few. From 50 on, draw it faintly with its running mean on top."""
    window = len(x) // 25
    if window < 2:
        axes.plot(x, y, "o-" if len(x) <= FEW_POINTS else "-", markersize=3.5, color=colour, label=label)
        return
    axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(x, running_mean(y, window), color=colour, label=label)


def count_axis(axis: Axis, text: str) -> None:
    """Label an axis that counts steps, tokens or answers, with ticks at whole numbers only."""
    axis.set_label_text(text)
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def not_below_zero(axes: Axes) -> None:
    """End the y axis at 0 if the margin below it has no data."""
    if axes.get_ylim()[0] < 0 <= axes.dataLim.y0:
        axes.set_ylim(bottom=0)


def legend_label(name: str) -> str:
    """Return a name as a legend label: matplotlib omits labels that start with an underscore."""
    return f" {name}" if name.startswith("_") else name


def held_out_points(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str) -> None:
    """Draw held-out values as circles."""
    axes.plot(x, y, "o", markersize=4.5, markerfacecolor="none", color=colour)


def running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """Return the mean of each value with up to `window` neighbours on either side; fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - window, 0), np.minimum(at + window + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def binned_mean(x: Sequence[float], y: Sequence[float], bins: int) -> tuple[list[float], list[float]]:
    """Return the means of x and of y in `bins` bins of x of equal width; empty bins are left out."""
    x_values, y_values = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    edges = np.linspace(x_values.min(), x_values.max(), bins + 1)
    place = np.clip(np.searchsorted(edges, x_values, side="right") - 1, 0, bins - 1)
    filled = [place == at for at in range(bins) if (place == at).any()]
    return [float(x_values[inside].mean()) for inside in filled], [float(y_values[inside].mean()) for inside in filled]


def legend(axes: Axes) -> None:
    """Place the legend between the title and the axes, in rows of two or three labels."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    columns = 3 if max(map(len, labels)) <= LONG_LABEL else 2
    axes.set_title(axes.get_title(loc="left"), pad=8 + ROW_POINTS * math.ceil(len(labels) / columns))
    axes.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        borderaxespad=0.3,
        handlelength=1.4,
        columnspacing=1.4,
    )


def horizontal_line(axes: Axes, value: float, text: str) -> None:
    """Draw a labelled dotted horizontal line at `value`."""
    axes.axhline(value, color=MUTED, linewidth=0.9, linestyle=(0, (2, 3)))
    axes.annotate(
        text,
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        color=MUTED,
        fontsize=8,
    )
