"""The manifest of a bundle: what is in it, for which machines, how it was made, and the digest of every other file.

``manifest.json`` is the JSON of `Manifest` with one more field, ``bundle``: the bundle id, the SHA-256 of the canonical
form (sorted keys, no whitespace, UTF-8) of all the others. It is written in one way only, and read in no other, so that
not even a blank can change in it.

`FORMAT_VERSION` and its upgrade rule. A field with a default may be added within a version: an older bundle then reads
as having the default, and keeps its id, which is taken of the document as it stands and not as it is understood. The
version rises where a reader of the old one would misunderstand the new, or a field changes its meaning or goes; the
reader then turns each older document into the new form before it validates it, and refuses one newer than itself.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Never, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError, model_validator

from models.errors import BundleDigestError, BundleFormatError
from models.frontend import N_MELS, LogMelSpec
from models.vocabulary import NAME_PATTERN, Domain, LossChoice, Precision, SectionKey, SubSystem

FORMAT_VERSION: Final = 1
FILE_NAME: Final = "manifest.json"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
FilePath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")]
"""A path inside the bundle's folder: no part can be empty, hidden or ``..``, so none can lead out of it."""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
PerMel = Annotated[tuple[float, ...], Field(min_length=N_MELS, max_length=N_MELS)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FrontEnd(_Entry):
    """The fields of `LogMelSpec`, each written out: a default that changes must not change a bundle that exists."""

    sample_rate_hz: Literal[16_000]
    n_fft: int = Field(gt=0)
    hop_length: int = Field(gt=0)
    n_mels: Literal[128]
    f_min_hz: float = Field(ge=0)
    f_max_hz: float = Field(gt=0)
    floor: float = Field(gt=0)
    channel: int | None = Field(ge=0)

    @classmethod
    def from_spec(cls, spec: LogMelSpec) -> Self:
        """The entry that describes ``spec``."""
        return cls(**{name: getattr(spec, name) for name in cls.model_fields})

    def spec(self) -> LogMelSpec:
        """The front end it describes."""
        return LogMelSpec(**self.model_dump())


class Standardisation(_Entry):
    """Mean and deviation of each mel band over all frames of all training clips, dB (FACTS 1)."""

    mean: PerMel
    deviation: PerMel

    @model_validator(mode="after")
    def _deviations_are_not_negative(self) -> Self:
        if min(self.deviation) < 0:
            raise ValueError("a standard deviation is negative")
        return self


class MemberEntry(_Entry):
    """One embedder: a snapshot of a network of the ensemble.

    ``file`` is its name under ``embedders/``. ``scale_limited``: the limit on an AdaCos scale acted within ten epochs
    before the snapshot.
    """

    id: Name
    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.onnx$")]
    network: str
    sub_clusters: int = Field(ge=1)
    heads: Literal[LossChoice.BOTH_HEADS, LossChoice.SECTIONS]
    snapshot_epoch: int = Field(ge=0)
    precision: Precision = Precision.FLOAT32
    scale_limited: bool = False


class FoldNetworkEntry(_Entry):
    """A network of one fold of the fused systems; ``kind`` says what it hears."""

    kind: Literal[SubSystem.A, SubSystem.L, SubSystem.R]
    fold: int = Field(ge=0)

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.kind.value}-{self.fold}.onnx"


class ClipCounts(_Entry):
    """Training clips of a section."""

    source: int = Field(ge=0)
    target: int = Field(ge=0)


class SectionEntry(_Entry):
    """A section: the domains that were calibrated, its attributes in the source domain, its training clips."""

    domains: tuple[Domain, ...]
    attributes: tuple[str, ...]
    clips: ClipCounts

    @model_validator(mode="after")
    def _has_source(self) -> Self:
        if Domain.SOURCE not in self.domains or len(set(self.domains)) != len(self.domains):
            raise ValueError("a section's domains are 'source' and, at most, 'target'")
        return self


class MachineTypeEntry(_Entry):
    """A machine type: whose members score it, and its sections."""

    loss: LossChoice
    sections: dict[Name, SectionEntry] = Field(min_length=1)


class Manifest(_Entry):
    """Everything a bundle says of itself. ``files``: relative path -> SHA-256, filled in when it is written.

    ``target_smote``: how many synthetic clips join the target clips of a section, trained or registered.
    """

    format_version: Literal[1] = FORMAT_VERSION
    name: str | None = None
    demonstration: bool
    front_end: FrontEnd
    standardisation: Standardisation
    members: tuple[MemberEntry, ...] = ()
    fold_networks: tuple[FoldNetworkEntry, ...] = ()
    machine_types: dict[Name, MachineTypeEntry] = Field(min_length=1)
    systems: tuple[str, ...] = Field(default=("adacos_resnet",), min_length=1)
    fusion: Literal["p_values"] | None = None
    target_smote: int = Field(default=0, ge=0)
    recipe: dict[str, JsonValue]
    training_data: dict[str, JsonValue]
    versions: dict[str, str]
    metrics: dict[str, JsonValue] | None = None
    files: dict[FilePath, Sha256] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _members_serve(self) -> Self:
        if self.fusion is None and (not self.members or self.fold_networks):
            raise ValueError("systems that are not fused are served by members, and by no networks of folds")
        if self.fusion is not None and self.members:
            raise ValueError("fused systems are served by networks of folds, and by no members")
        folds = Counter(entry.kind for entry in self.fold_networks)
        if [(one.kind, one.fold) for one in self.fold_networks] != [
            (kind, fold) for kind, count in folds.items() for fold in range(count)
        ] or len(set(folds.values())) > 1:
            raise ValueError("fold_networks must list, kind by kind, a network a fold")
        if len({member.precision for member in self.members}) > 1:
            raise ValueError("the members run in several precisions; a bundle has one")
        for kind in ("id", "file"):
            values = [getattr(member, kind) for member in self.members]
            if len(set(values)) != len(values):
                raise ValueError(f"two members have the same {kind}")
        for machine_type in self.machine_types if self.fusion is None else ():
            if not self.members_of(machine_type):
                raise ValueError(f"machine type {machine_type!r} has no member of its loss choice")
        return self

    @property
    def sections(self) -> tuple[SectionKey, ...]:
        """Every section, in sorted order."""
        entries = self.machine_types.items()
        return tuple(sorted(SectionKey(name, section) for name, entry in entries for section in entry.sections))

    @property
    def network_paths(self) -> dict[str, str]:
        """Where each network's file is in the bundle's folder, by file name: members, then networks of folds."""
        return {
            **{member.file: f"embedders/{member.file}" for member in self.members},
            **{
                network.file: f"{'embedders' if network.kind is SubSystem.R else 'statistics_networks'}/{network.file}"
                for network in self.fold_networks
            },
        }

    @property
    def precision(self) -> Precision:
        """In which the networks compute; those of folds in float32."""
        return self.members[0].precision if self.members else Precision.FLOAT32

    def members_of(self, machine_type: str) -> tuple[int, ...]:
        """Which networks score ``machine_type``: their places in ``members``, ascending (2.5), or every fold's."""
        if self.fusion is not None:
            return tuple(sorted({network.fold for network in self.fold_networks}))
        loss = self.machine_types[machine_type].loss
        return tuple(
            place for place, member in enumerate(self.members) if loss is LossChoice.SUM or member.heads is loss
        )


def bundle_id(document: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's JSON ``document`` in canonical form, without the id itself."""
    return hashlib.sha256(_canonical(document)).hexdigest()


def canonical_form(content: bytes) -> bytes:
    """The canonical form, without the id, of a ``manifest.json`` that `parse_manifest` accepts: what is signed."""
    return _canonical(json.loads(content))


def _canonical(document: Mapping[str, Any]) -> bytes:
    content = {name: value for name, value in document.items() if name != "bundle"}
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def render_manifest(manifest: Manifest) -> tuple[bytes, str]:
    """The content of ``manifest.json``, and the bundle id in it."""
    document = manifest.model_dump(mode="json")
    identity = bundle_id(document)
    return _render({**document, "bundle": identity}), identity


def parse_manifest(content: bytes, path: Path) -> tuple[Manifest, str]:
    """The manifest and the bundle id in ``content``, read from ``path``.

    Raises
    ------
    BundleFormatError : where it is no manifest of a version that can be read.
    BundleDigestError : where it is not, byte for byte, what was written.
    """
    try:
        document = json.loads(content, parse_constant=_refuse_constant)
        if not isinstance(document, dict):
            raise TypeError(f"a {type(document).__name__} where an object is expected")  # noqa: TRY301
        identity, rendered = bundle_id(document), _render(document)
    except (ValueError, TypeError, RecursionError) as error:
        raise BundleFormatError(path, f"this is no bundle's manifest ({error}). Get the bundle again.") from error
    version = document.get("format_version")
    if version != FORMAT_VERSION:
        raise BundleFormatError(
            path,
            f"the bundle has format version {version!r}, this Earwitness reads {FORMAT_VERSION}. Use the Earwitness "
            "release that made it or a later one, or train the bundle again.",
        )
    if document.get("bundle") != identity or rendered != content:
        raise BundleDigestError(
            path,
            f"the manifest was altered: it says bundle {document.get('bundle')!r}, its content is {identity}. A bundle "
            "is never edited: get it again, or train a new one.",
        )
    try:
        manifest = Manifest.model_validate_json(
            json.dumps({name: value for name, value in document.items() if name != "bundle"})
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise BundleFormatError(
            path, f"{place}: {first['msg']}. Use the Earwitness release that made the bundle, or a later one."
        ) from error
    return manifest, identity


def _render(document: Mapping[str, Any]) -> bytes:
    """The one way of writing a document: keys sorted, a line for each value."""
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is no JSON")
