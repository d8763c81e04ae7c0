"""The curve of a pruning as a table, with what a clip takes on this machine at each step."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

from models.detector import Detector
from models.scoring import SectionModel, score_section
from models.vocabulary import Domain, SubSystem
from training.bundling import made_clip
from training.layout import DASH, Table, figure
from training.progress import Advance
from training.prune import Group, Pruning
from training.pruning import Curve
from training.timing import interleaved_ms


def clip_ms(pruning: Pruning, group: Group, advance: Advance) -> list[float]:
    """Milliseconds from a waveform to its score by the members of each step, alone; see `interleaved_ms`.

    All steps run on the networks of the whole bundle, opened once, and on the mixtures of the group's first section.
    """
    with closing(Detector(pruning.whole)) as detector:
        clip = made_clip(detector)
        key = min(key for key in detector.sections if key.machine_type in group.curve.machine_types)
        model = pruning.whole.sections[key]
        assert isinstance(model, SectionModel), "fused systems are refused"

        def way(members: Sequence[int]) -> Callable[[], object]:
            # of those left the section's own: where losses are summed, a step may hold some that do not score it
            own = [member for member in detector.members_of(key.machine_type) if member in members]
            part = pruning.model_of(key.machine_type, model, members)

            def run() -> object:
                features = detector.analyse(clip)
                embeddings = detector.encode_by(detector.inputs(features), own)
                return score_section(part, embeddings[SubSystem.R], features.t_max, Domain.SOURCE)

            return run

        return interleaved_ms([way(left) for left in group.left], advance)


def curve_table(
    curve: Curve, kept: int | None, clip_ms: Mapping[int, float], areas: Mapping[int, float | None] | None = None
) -> Table:
    """A line a step, for a terminal and for a report's page.

    Parameters
    ----------
    kept : how many of the curve's members the smaller bundle has; None where there is to be none.
    clip_ms : by members left, milliseconds that a clip takes on this machine; a dash where there are none.
    areas : likewise, mean AUC of test clips; None leaves the column out.
    """
    lines = []
    for step in curve.steps:
        took_ms = clip_ms.get(step.members)
        cells = (
            f"{step.members}{'*' if step.members == kept else ''}",
            "none" if step.gone is None else step.gone,
            f"{step.agreement:.3f}",
            f"{step.p_values_moved:.3f}",
            figure(step.decisions_changed),
            DASH if took_ms is None else f"{took_ms:.1f}",
        )
        lines.append(cells if areas is None else (*cells, figure(areas.get(step.members))))
    measured = (
        "" if areas is None else ", and the test clips' mean AUC, per cent, of the bundles that are evaluated here"
    )
    marked = "" if kept is None else "* as many as stay; "
    return Table(
        f"{', '.join(curve.machine_types)}: members left out one by one, by training clips alone; {marked}"
        f"decisions changed, per cent; ms a clip on this machine{measured}",
        (
            *("members", "left out", "agreement", "p-values moved", "decisions changed", "ms a clip"),
            *(() if areas is None else ("mean AUC",)),
        ),
        tuple(lines),
        words=2,
    )


def as_text(pruning: Pruning, ms: Sequence[Sequence[float]]) -> str:
    """Each group's curve, and where a smaller bundle is asked for its step marked, and who stays.

    ``ms``: by group and step, see `clip_ms`.
    """
    manifest = pruning.whole.manifest
    lines = []
    for group, own in zip(pruning.groups, ms, strict=True):
        by_members = {len(left): took_ms for left, took_ms in zip(group.left, own, strict=True)}
        kept = None if pruning.n_members is None else len(group.kept(pruning.n_members))
        lines += [curve_table(group.curve, kept, by_members).as_text(), ""]
    if unused := set(range(len(manifest.members))) - {place for group in pruning.groups for place in group.left[0]}:
        lines.append(f"{len(unused)} members score no machine type, and go.")
    if pruning.n_members is not None:
        stay = ", ".join(manifest.members[place].id for place in pruning.kept)
        lines.append(f"* {len(pruning.kept)} of {len(manifest.members)} members stay: {stay}.")
    lines.append(
        "Agreement: how closely the score follows what the networks have in common; 1 as that of all members does."
    )
    lines.append(
        "All but the time is of the clips that calibrate, none of which is a test clip: 'evaluate' scores those."
    )
    return "\n".join(lines)
