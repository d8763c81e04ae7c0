"""Bundles trained and measured by the project's own functions, kept in a work folder, so that a study resumes."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from models.encoder import Device
from models.vocabulary import Split
from tests.studies.cuts import write_manifest
from training.contenders import BundleContender
from training.evaluate import evaluate
from training.pipeline import train
from training.recipe import RECIPES
from training.recordings import Recording, read_recordings
from training.run import Run
from training.storage import write_atomically

Figures = Mapping[str, Any]
"""What `Evaluation.to_json` gives."""


def trained(folder: Path, recordings: Sequence[Recording], seed: int) -> Path:
    """The bundle of the recipe `plant` on these recordings, whose manifest is written beside it."""
    bundle = folder / "bundle"
    if not bundle.exists():
        manifest = folder / "recordings.csv"
        write_manifest(manifest, recordings)
        train(Run.of(read_recordings([manifest]), RECIPES["plant"], seed, folder / "work"), bundle)
    return bundle


def measured(kept: Path, bundle: Path, recordings: Sequence[Recording]) -> Figures:
    """The bundle's figures on the test clips among ``recordings``."""
    if not kept.exists():
        with closing(BundleContender(bundle, device=Device.CPU)) as contender:
            testing = [one for one in recordings if one.split is Split.TEST]
            found = evaluate([contender], testing, advance=lambda _: None)
        content = json.dumps(found.to_json(), indent=1, allow_nan=False).encode()
        write_atomically(kept, lambda file: file.write(content))
    figures: Figures = json.loads(kept.read_text())
    return figures


def lines(name: str, figures: Figures) -> list[tuple[str, ...]]:
    """A line a section and domain: AUC, then at 10 % false alarms by folds, of test clips, and hits, with intervals."""
    promises = {
        (one["machine_type"], one["section"], one["domain"]): one for one in figures["promises"] if one["asked"] == 0.1
    }
    found: list[tuple[str, ...]] = []
    for row in figures["rows"]:
        place = (row["machine_type"], row["section"], row["domain"])
        one = promises[place]
        found.append(
            (
                name,
                " ".join(place),
                str(one["clips"]),
                _cell(row["auc"], row["auc_interval"]),
                _cell(one["cross_validated"], None),
                _cell(one["false_alarms"], one["false_alarm_interval"]),
                _cell(one["hits"], one["hit_interval"]),
            )
        )
    return found


HEADER = ("case", "section, domain", "clips", "AUC", "by folds", "false alarms", "hits")


def _cell(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.0f}" + (f" ({100 * interval[0]:.0f}-{100 * interval[1]:.0f})" if interval else "")
