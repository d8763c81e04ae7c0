"""A finished baseline in its work folder: ``baseline.json``, what it is, and ``arrays.npz``, what it has learned.

The arrays are written first, and ``baseline.json`` names their SHA-256: where it lies the baseline is finished, and
whole. `FORMAT_VERSION` rises where a reader of the old form would misunderstand the new; an older one is trained again.
"""

import hashlib
import io
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.commands import shell_line
from models.errors import DataError
from models.manifest import FrontEnd, Name, Sha256
from models.vocabulary import Domain, SectionKey
from training.baselines.trained import BASELINES, Budget, Network, Trained
from training.scored import SystemName
from training.storage import write_atomically

FORMAT_VERSION: Final = 1
DOCUMENT, ARRAYS = "baseline.json", "arrays.npz"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Network(_Entry):
    """``sections``: (machine type, section) of each class."""

    sections: tuple[tuple[Name, Name], ...] = Field(min_length=1)
    frames: int = Field(gt=0)
    hop: int = Field(gt=0)
    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)

    @classmethod
    def of(cls, network: Network) -> Self:
        sections = tuple((key.machine_type, key.section) for key in network.sections)
        return cls(sections=sections, **asdict(network.budget))

    def network(self) -> Network:
        return Network(
            tuple(SectionKey(*names) for names in self.sections),
            Budget(self.frames, self.hop, self.epochs, self.batch_size, self.learning_rate),
        )


class _Document(_Entry):
    """``thresholds``: by machine type, section and domain."""

    format_version: Literal[1]
    baseline: Literal[SystemName.AUTOENCODER, SystemName.MOBILENETV2, SystemName.FLOOR]
    seed: int = Field(ge=0)
    recordings: Sha256
    clips: int = Field(gt=0)
    front_end: FrontEnd
    networks: dict[str, _Network]
    thresholds: dict[Name, dict[Name, dict[Domain, float | None]]] = Field(min_length=1)
    arrays: Sha256


def is_finished(work: Path) -> bool:
    """Whether a baseline has been trained to its end in this folder."""
    return (work / DOCUMENT).exists()


def write_trained(work: Path, trained: Trained) -> None:
    """Write a baseline; whenever the process is killed there is either the whole one or none."""
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **trained.arrays)
    content = packed.getvalue()
    thresholds: dict[str, dict[str, dict[Domain, float | None]]] = {}
    for (key, domain), threshold in sorted(trained.thresholds.items()):
        thresholds.setdefault(key.machine_type, {}).setdefault(key.section, {})[domain] = threshold
    document = _Document(
        format_version=FORMAT_VERSION,
        baseline=trained.kind,
        seed=trained.seed,
        recordings=trained.recordings,
        clips=trained.clips,
        front_end=FrontEnd.from_spec(trained.front_end),
        networks={name: _Network.of(network) for name, network in trained.networks.items()},
        thresholds=thresholds,
        arrays=hashlib.sha256(content).hexdigest(),
    )
    write_atomically(work / ARRAYS, lambda file: file.write(content))
    write_atomically(work / DOCUMENT, lambda file: file.write(document.model_dump_json(indent=1).encode() + b"\n"))


def read_trained(work: Path) -> Trained:
    """Read a finished baseline.

    Raises
    ------
    DataError : where the folder holds none, or not what was written.
    """
    if not is_finished(work):
        raise _refusal(work, "holds no finished baseline")
    try:
        document = _Document.model_validate_json((work / DOCUMENT).read_bytes())
        content = (work / ARRAYS).read_bytes()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or DOCUMENT
        raise _refusal(work, f"holds no baseline that this Earwitness reads ({place}: {first['msg']})") from error
    except OSError as error:
        raise _refusal(work, f"holds a baseline that cannot be read ({error})") from error
    if hashlib.sha256(content).hexdigest() != document.arrays:
        raise _refusal(work, f"holds a damaged baseline: {ARRAYS} is not what {DOCUMENT} names")
    with np.load(io.BytesIO(content)) as saved:
        arrays = dict(saved)
    return Trained(
        kind=document.baseline,
        seed=document.seed,
        recordings=document.recordings,
        clips=document.clips,
        front_end=document.front_end.spec(),
        networks={name: entry.network() for name, entry in document.networks.items()},
        thresholds={
            (SectionKey(machine_type, section), domain): threshold
            for machine_type, sections in document.thresholds.items()
            for section, domains in sections.items()
            for domain, threshold in domains.items()
        },
        arrays=arrays,
    )


def _refusal(work: Path, what: str) -> DataError:
    kinds = "|".join(BASELINES)
    command = shell_line(f"training baseline {kinds} DATA... --work {shlex.quote(str(work))}")
    return DataError(f"{work} {what}. Train one there: {command}")
