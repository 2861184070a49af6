"""How plots look: one palette for the light and the dark page, plain axes, and a figure as PNG file and inline SVG.

A figure is drawn once, in the light palette. In its SVG every colour is then replaced by a CSS variable, so that it
follows the page; the PNG file keeps the light colours.
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

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# name -> (light, dark). The first six are the subjects' colours, by position; the reference comes first.
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
# What belongs to no subject: the two sides of a comparison.
GOOD, BAD = LIGHT["good"], LIGHT["bad"]
WIDTH, HEIGHT = 5.4, 3.1
# A legend's row, in points, and the characters from which three labels do not fit beside one another.
ROW_POINTS, LONG_LABEL = 13, 18
STYLE = {
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
    """One figure with the sentence that says how to read it."""

    name: str
    """of its PNG file"""
    caption: str
    figure: Figure

    def save(self, folder: Path) -> None:
        """Write `folder`/name.png."""
        with style(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # in names; the page's own fonts have them
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
        # The page's own font, the size from its viewBox, and no ids that a second figure has as well.
        svg = re.sub(r"font: ((?:\w+ )*)([\d.]+)px [^;\"]*", r"font: \1\2px var(--font)", svg)
        svg = re.sub(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
        return re.sub(r'<g id="[^"]*"', "<g", svg)


def colours(names: Iterable[str], reference: str | None = None) -> dict[str, str]:
    """name -> name of a colour, by position; the reference has the first one. After six they start again."""
    ordered = sorted(names, key=lambda name: name != reference)
    return dict(zip(ordered, cycle(SUBJECT_COLOURS), strict=False))


def style() -> AbstractContextManager[None]:
    """The settings to make figures in: matplotlib reads them when a figure is made, not when it is shown."""
    return mpl.rc_context(STYLE)


def canvas(rows: int = 1, *, share: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure of one or several panels, one above the other; by default they share their x axis."""
    figure = Figure(figsize=(WIDTH, HEIGHT if rows == 1 else HEIGHT * 0.68 * rows))
    return figure, list(figure.subplots(rows, 1, sharex=share, squeeze=False)[:, 0])


def curve(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str, label: str | None = None) -> None:
    """A line; where points are many, a faint one with its running mean over it."""
    window = len(x) // 25
    if window < 2:
        axes.plot(x, y, color=colour, label=label)
        return
    axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(x, running_mean(y, window), color=colour, label=label)


def label(name: str) -> str:
    """A name for the legend, where matplotlib leaves out those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


def held_out(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str) -> None:
    """Circles."""
    axes.plot(x, y, "o", markersize=4.5, markerfacecolor="none", color=colour)


def running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """Means over up to `window` values on either side of each; as long as `values`, shorter windows at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - window, 0), np.minimum(at + window + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def binned_mean(x: Sequence[float], y: Sequence[float], bins: int) -> tuple[list[float], list[float]]:
    """Means of x and y within `bins` equally wide stretches of x; empty stretches are left out."""
    x_values, y_values = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    edges = np.linspace(x_values.min(), x_values.max(), bins + 1)
    place = np.clip(np.searchsorted(edges, x_values, side="right") - 1, 0, bins - 1)
    filled = [place == at for at in range(bins) if (place == at).any()]
    return [float(x_values[inside].mean()) for inside in filled], [float(y_values[inside].mean()) for inside in filled]


def legend(axes: Axes) -> None:
    """Between title and axes, where no line can run into it; more than three names take several rows."""
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


def level(axes: Axes, value: float, text: str) -> None:
    """A dotted line at a value worth knowing, with its name."""
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
