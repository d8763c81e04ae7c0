"""The look that page and pictures share, and how a drawing becomes a PNG file and an SVG that follows the page's theme.

A drawing uses the colours of `LIGHT` only. A PNG keeps them; in an SVG each becomes the page's variable of its name, so
that one picture serves light and dark screens and paper. Figures are made without pyplot: nothing is global but the
settings, and those are set back.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

LIGHT: Mapping[str, str] = MappingProxyType(
    {
        "paper": "#fcfcfa",
        "card": "#f3f4f1",
        "ink": "#1b2530",
        "muted": "#586471",
        "rule": "#d4d9dc",
        "normal": "#1f6f9f",
        "faulty": "#c4501b",
        "known": "#8a949e",
        "good": "#2b7a4b",
        "doubt": "#8f6400",
        "bad": "#b3261e",
        "hue-0": "#1f6fa0",
        "hue-1": "#c9571f",
        "hue-2": "#2e8560",
        "hue-3": "#8a5aa8",
        "hue-4": "#a87a00",
        "hue-5": "#b8447a",
        "hue-6": "#4b5f8f",
        "hue-7": "#7a6a58",
    }
)
DARK: Mapping[str, str] = MappingProxyType(
    {
        "paper": "#14191f",
        "card": "#1c232b",
        "ink": "#e4e8eb",
        "muted": "#9fabb6",
        "rule": "#353f49",
        "normal": "#69b7e3",
        "faulty": "#f0905a",
        "known": "#76828e",
        "good": "#6fc795",
        "doubt": "#e0b354",
        "bad": "#f28b82",
        "hue-0": "#6ab6e2",
        "hue-1": "#f2935d",
        "hue-2": "#68c79b",
        "hue-3": "#c49be0",
        "hue-4": "#dfb44c",
        "hue-5": "#ee8db8",
        "hue-6": "#9db1e6",
        "hue-7": "#c2b09a",
    }
)
HUES = 8
"""Colours that tell sections or systems apart; of more, the first come again."""

WIDTH_IN, HEIGHT_IN = 3.6, 2.5
"""Of a panel."""
_DPI = 160
_SETTINGS: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.edgecolor": LIGHT["rule"],
    "axes.facecolor": "none",
    "axes.labelcolor": LIGHT["muted"],
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titlecolor": LIGHT["ink"],
    "figure.facecolor": LIGHT["paper"],
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "earwitness",
    "text.color": LIGHT["ink"],
    "text.parse_math": False,  # a dollar sign in somebody's name is a dollar sign
    "xtick.color": LIGHT["rule"],
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.color": LIGHT["rule"],
    "ytick.labelcolor": LIGHT["muted"],
}
_VARIABLES = {value: f"var(--{name})" for name, value in LIGHT.items()}


def file_name(text: str) -> str:
    """What can name a file, whatever a network was called."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)


def hue(place: int) -> str:
    """The name of a colour that tells the ``place``-th section or system from the others."""
    return f"hue-{place % HUES}"


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a legend, in a colour of `LIGHT`.

    ``mark``: area, line, dashes, tick, dot, ring, triangle or diamond.
    """

    label: str
    colour: str
    mark: str


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One small picture: ``draw`` fills the axes; ``alt`` says in words what is to be seen."""

    title: str
    alt: str
    draw: Callable[[Axes], object]


@dataclass(frozen=True, slots=True, eq=False)
class Plate:
    """Panels under one heading: on the page they flow side by side, as a file they are one picture, ``name``.png.

    ``name`` also begins every id in the panels' SVGs: of letters, digits, dots, underscores and hyphens, and unique.
    """

    name: str
    heading: str
    panels: Sequence[Panel]
    keys: Sequence[Key] = ()
    height_in: float = HEIGHT_IN
    width_in: float = WIDTH_IN


def as_png(plate: Plate) -> bytes:
    """All panels of a plate as one picture on paper, with heading, titles and legend."""
    columns = min(3, len(plate.panels))
    rows = -(-len(plate.panels) // columns)
    with mpl.rc_context(_SETTINGS):
        figure = Figure((columns * plate.width_in, rows * (plate.height_in + 0.3) + 0.5), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flat
        for panel, ax in zip(plate.panels, axes, strict=False):
            panel.draw(ax)
            if len(plate.panels) > 1:
                ax.set_title(panel.title)
        for ax in axes[len(plate.panels) :]:
            ax.remove()
        figure.suptitle(plate.heading, x=0.01, ha="left", fontsize=11)
        if plate.keys:
            figure.legend(handles=[_handle(key) for key in plate.keys], loc="outside lower left", ncols=2 * columns)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()


def as_svg(plate: Plate, place: int) -> str:
    """The ``place``-th panel as an SVG element that takes its colours, its font and its width from the page."""
    with mpl.rc_context(_SETTINGS):
        figure = Figure((plate.width_in, plate.height_in), layout="constrained")
        plate.panels[place].draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, dpi=_DPI, metadata=dict.fromkeys(_METADATA))
    return _for_the_page(file.getvalue(), f"{plate.name}-{place}")


_METADATA = ("Creator", "Date", "Format", "Type")


def _for_the_page(svg: str, prefix: str) -> str:
    """What matplotlib wrote, without what an SVG inside a page must not have: a prologue, a style, names of others."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", svg, count=1)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{prefix}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(?:xlink:)?(href="|url\()#', rf"\1#{prefix}-", svg).replace("xlink:href", "href")
    svg = re.sub(r'style="[^"]*"', lambda found: _themed(found[0]), svg)
    return re.sub(r"\s*\n\s*", "\n", svg).strip()


def _themed(style: str) -> str:
    style = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--text)", style)
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: _VARIABLES.get(found[0], found[0]), style)


def _handle(key: Key) -> Any:
    colour = LIGHT[key.colour]
    match key.mark:
        case "area":
            return Patch(color=colour, alpha=0.45, lw=0, label=key.label)
        case "line":
            return Line2D([], [], color=colour, label=key.label)
        case "dashes":
            return Line2D([], [], color=colour, ls=(0, (4, 2)), label=key.label)
        case _:
            marker = {"tick": "|", "dot": "o", "ring": "o", "triangle": "^", "diamond": "D"}[key.mark]
            face = "none" if key.mark == "ring" else colour
            return Line2D([], [], color=colour, ls="", marker=marker, mfc=face, ms=5, label=key.label)
