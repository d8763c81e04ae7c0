"""What the networks do with clips, and how they came to it: a map of embeddings, and the curves of their training."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from models.manifest import MemberEntry
from models.vocabulary import Condition, Domain
from training.curves import Curve, curves_of
from training.report.contents import ReportData
from training.report.embeddings import plane
from training.report.panels import DASHES
from training.report.theme import LIGHT, Key, Panel, Plate, file_name, hue
from training.report.words import count
from training.scored import Scored

Array = NDArray[np.float64]


def map_plates(data: ReportData) -> list[Plate]:
    """The embeddings of each machine type's clips in a plane, coloured by section; marks tell condition and domain."""
    clips = data.clips
    plates = []
    for name in sorted({clip.recording.machine_type for clip in clips}):
        own = [i for i, clip in enumerate(clips) if clip.recording.machine_type == name]
        places, share = plane(data.embeddings[own])
        shown = [clips[i] for i in own]
        sections = sorted({clip.recording.section for clip in shown})
        keys = [Key(f"section {section}", hue(i), "dot") for i, section in enumerate(sections)]
        keys += [Key(words, "muted", mark) for kind, words, mark in _MARKS if any(map(kind, shown))]
        plates.append(
            Plate(
                f"embeddings-{name}",
                f"Map of the test clips: {name}",
                [_map_panel(name, shown, sections, places, share)],
                keys,
            )
        )
    return plates


_MARKS = (
    (lambda clip: clip.recording.condition is Condition.NORMAL, "normal", "dot"),
    (lambda clip: clip.recording.condition is None, "of unknown condition", "dot"),
    (lambda clip: clip.recording.condition is Condition.ANOMALY, "faulty", "triangle"),
    (lambda clip: clip.recording.domain is Domain.TARGET, "target domain", "ring"),
)


def _map_panel(name: str, clips: Sequence[Scored], sections: Sequence[str], places: Array, share: float) -> Panel:
    def draw(ax: Axes) -> None:
        for section in sections:
            for faulty in (False, True):
                for domain in Domain:
                    own = [
                        i
                        for i, clip in enumerate(clips)
                        if (clip.recording.section, clip.recording.domain) == (section, domain)
                        and (clip.recording.condition is Condition.ANOMALY) is faulty
                    ]
                    colour = LIGHT[hue(sections.index(section))]
                    ax.scatter(
                        places[own, 0],
                        places[own, 1],
                        s=34 if faulty else 22,
                        marker="^" if faulty else "o",
                        facecolors=to_rgba(colour, 0.75 if domain is Domain.SOURCE else 0.12),
                        edgecolors=LIGHT["ink"] if faulty else colour,
                        linewidths=0.9,
                        rasterized=len(clips) > _MOST_SHAPES,
                    )
        ax.set(xticks=[], yticks=[], xlabel=f"two directions that hold {100 * share:.0f} % of the differences")
        ax.margins(0.06)
        for side in ax.spines.values():
            side.set_visible(True)

    words = f"{count(len(clips), 'test clip')} of {count(len(sections), 'section')}"
    return Panel(name, f"Map of the embeddings of {name}: {words}; clips that sound alike lie close together.", draw)


_MOST_SHAPES = 600
"""A map of more clips is drawn in pixels: thousands of shapes would make the page heavy."""


def training_plates(data: ReportData) -> list[Plate]:
    """Losses and AdaCos scales of each network over its epochs; none where the bundle does not carry its curves."""
    return [
        Plate(
            f"training-{file_name(name)}",
            f"Training of {name}",
            [
                _curve_panel(name, curve, "loss", "loss", _snapshots(data.manifest.members, name)),
                _curve_panel(name, curve, "AdaCos scale", "scale", _snapshots(data.manifest.members, name)),
            ],
            [
                *([Key("all", "ink", "line")]),
                Key("sections", "hue-0", "line"),
                *([Key("attributes", "hue-1", "line")] if "attribute_loss" in curve else []),
                Key("snapshot", "muted", "dashes"),
                *([Key("a scale met its limit", "bad", "triangle")] if any(curve["limited"]) else []),
            ],
        )
        for name, curve in sorted(curves_of(data.manifest.training_data).items())
    ]


def _snapshots(members: Sequence[MemberEntry], network: str) -> list[int]:
    return [member.snapshot_epoch for member in members if member.network == network]


def _curve_panel(network: str, curve: Curve, title: str, kind: str, snapshots: Sequence[int]) -> Panel:
    lines = [
        (curve[column], LIGHT[colour])
        for column, colour in (("loss", "ink"), (f"section_{kind}", "hue-0"), (f"attribute_{kind}", "hue-1"))
        if column in curve and (column != "loss" or kind == "loss")
    ]

    def draw(ax: Axes) -> None:
        for epoch in snapshots:
            ax.axvline(epoch, color=LIGHT["muted"], ls=DASHES, lw=0.8, alpha=0.7)
        for values, colour in lines:
            ax.plot(curve["epoch"], values, color=colour, lw=1.4)
        limited = [epoch for epoch, met in zip(curve["epoch"], curve["limited"], strict=True) if met]
        ax.plot(limited, [1.0] * len(limited), "^", color=LIGHT["bad"], ms=4, transform=ax.get_xaxis_transform())
        ax.set(xlabel="epoch", ylim=(0, 1.08 * max(max(values) for values, _ in lines)))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(5))

    first, last = lines[0][0][0], lines[0][0][-1]
    met = sum(map(bool, curve["limited"]))
    limit = f"; a scale met its limit at {count(met, 'point')}" if met else ""
    alt = f"{title} of {network} over {curve['epoch'][-1]:.0f} epochs: from {first:.3g} to {last:.3g}{limit}."
    return Panel(f"{network}: {title}", alt, draw)
