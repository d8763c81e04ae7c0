"""What of `plant` holds where clips are few, machines alone, or test clips recorded otherwise.

``python -m tests.studies.robustness RECORDINGS --work W`` trains and measures, and prints the table that DECISIONS.md
quotes; killed at any moment, the same command goes on. RECORDINGS is a tree or a manifest with training and test clips.
Cut sections are drawn by the seed; nothing is chosen by test clips, which are read for the figures alone.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from models.vocabulary import SectionKey, Split
from tests.studies.copies import CHANGES, copied
from tests.studies.cuts import cut_to, of_section, without
from tests.studies.measured import HEADER, Figures, lines, measured, trained
from training.extend import extend
from training.layout import columns
from training.recordings import Recording, read_recordings

CUTS = (30, 12)


def study(recordings: Sequence[Recording], work: Path, seed: int, added: SectionKey) -> Iterator[tuple[str, Figures]]:
    """Each case with its figures.

    Parameters
    ----------
    added : the section that is taken out of the training and then added by `extend`.
    """
    joint = trained(work / "joint", recordings, seed)
    yield "joint", measured(work / "joint" / "figures.json", joint, recordings)
    for n in CUTS:
        folder = work / f"cut-{n}"
        bundle = trained(folder, cut_to(recordings, n, seed), seed)
        yield f"cut to {n}", measured(folder / "figures.json", bundle, recordings)
    for key in sorted({recording.key for recording in recordings}):
        folder = work / f"alone-{key.machine_type}-{key.section}"
        own = of_section(recordings, key)
        yield "alone", measured(folder / "figures.json", trained(folder, own, seed), own)
    testing = [recording for recording in recordings if recording.split is Split.TEST]
    for name, change in CHANGES.items():
        folder = work / name.replace(" ", "-")
        copies = copied(testing, folder / "clips", change, seed)
        yield name, measured(folder / "figures.json", joint, copies)
    yield "extended", _extended(recordings, work, seed, added)


def _extended(recordings: Sequence[Recording], work: Path, seed: int, added: SectionKey) -> Figures:
    folder = work / f"without-{added.machine_type}-{added.section}"
    small = trained(folder, without(recordings, added), seed)
    bundle, new = folder / "extended", of_section(recordings, added)
    if not bundle.exists():
        extend(small, new, bundle, folder / "work-added", advance=lambda _: None)
    return measured(folder / "figures.json", bundle, recordings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies.robustness", description=__doc__)
    parser.add_argument("recordings", type=Path, metavar="RECORDINGS")
    parser.add_argument("--work", type=Path, required=True, metavar="W")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--added", default="slider/01", metavar="TYPE/SECTION", help="what `extend` adds")
    options = parser.parse_args(arguments)
    key = SectionKey(*options.added.split("/"))
    recordings = read_recordings([options.recordings])
    table: list[tuple[str, ...]] = []
    for name, figures in study(recordings, options.work, options.seed, key):
        table += lines(name, figures)
        print(f"{name}: official score {100 * figures['harmonic_mean']['official_score']:.1f}", flush=True)
    print("\n".join(columns(HEADER, table)))


if __name__ == "__main__":
    main()
