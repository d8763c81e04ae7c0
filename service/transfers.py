"""``python -m service targets export|import``: all that a database of target clips holds, as a folder and back.

The folder has ``clips/<SHA-256>``, each clip as it was received, and ``targets.json``, every registration with its
version, past ones too, which are in force, and the idempotency keys. It is written whole or not at all, from one moment
of the database; and it is taken in whole or not at all, by a database that has no registration yet, of either kind.

The database that it comes from may have gone on after the export, and what it gave the numbers to is lost: so after an
import new versions exceed all that it can have come to meanwhile, at one registration of a section each second. Thus a
version that answers have named never stands for other clips.

``FORMAT_VERSION`` rises when an older release could not read what is written. Version 1, which is read too, lacks the
moment of the export and the number that new versions exceed.
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator
from sqlalchemy import Connection, func, insert, select, update

from models.commands import shell_line
from models.errors import DataError
from models.folders import write_folder
from models.vocabulary import NAME_PATTERN, Domain
from service.databases import Database, exists, shown
from service.tables import SECTION, changes, clips, idempotency_keys, in_force, registrations
from service.targets import count_change

FORMAT_VERSION: Final = 2
_CONTENTS = "targets.json"

_Name = Annotated[str, Field(pattern=NAME_PATTERN)]
_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Version = Annotated[int, Field(ge=1, lt=2**31)]
_Place = tuple[str, str, Domain]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Clip(_Entry):
    sha256: _Digest
    duration_s: float
    level_dbfs: float
    clipped_share: float
    damaged: bool
    """The database no longer had the bytes that were registered: there is no file of it."""


class _Registration(_Entry):
    machine_type: _Name
    section: _Name
    domain: Domain
    version: _Version
    registered_at: AwareDatetime
    restored_from: int | None
    in_force: bool
    clips: tuple[_Clip, ...]

    @property
    def place(self) -> _Place:
        return self.machine_type, self.section, self.domain


class _Key(_Entry):
    key: Annotated[str, Field(max_length=255)]
    request_sha256: _Digest
    machine_type: _Name
    section: _Name
    domain: Domain
    version: _Version


class _Contents(_Entry):
    format: Literal["earwitness-targets"] = "earwitness-targets"
    format_version: Literal[1, 2] = FORMAT_VERSION
    exported_at: AwareDatetime | None = None
    version_floor: Annotated[int, Field(ge=0, lt=2**31)] = 0
    registrations: tuple[_Registration, ...]
    idempotency_keys: tuple[_Key, ...]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        versions = [(*one.place, one.version) for one in self.registrations]
        current = [one.place for one in self.registrations if one.in_force]
        named = [(one.machine_type, one.section, one.domain, one.version) for one in self.idempotency_keys]
        if len(set(versions)) < len(versions) or len(set(current)) < len(current) or not set(named) <= set(versions):
            raise ValueError("a version is there twice, two are in force, or a key belongs to none")
        return self

    def floor(self, now: datetime) -> int:
        """What no version of the database that this is from can have exceeded by ``now``."""
        highest = max((one.version for one in self.registrations), default=0)
        newest = max((one.registered_at for one in self.registrations), default=now)
        elapsed = now - (self.exported_at or newest)
        return max(self.version_floor, highest) + math.ceil(max(0.0, elapsed.total_seconds()))


@dataclass(frozen=True, slots=True)
class Transferred:
    """What was carried over; ``damaged``: of the clips."""

    registrations: int
    clips: int
    damaged: int

    @classmethod
    def of(cls, contents: _Contents) -> Self:
        """The counts of a folder's contents."""
        every = [clip for one in contents.registrations for clip in one.clips]
        return cls(len(contents.registrations), len(every), sum(clip.damaged for clip in every))

    def __str__(self) -> str:
        damaged = f", {self.damaged} of them damaged" if self.damaged else ""
        return f"{self.registrations} registrations with {self.clips} clips{damaged}"


def export_targets(url: str, folder: Path) -> Transferred:
    """Write all that the database holds as ``folder``, which must not exist yet.

    Raises
    ------
    DataError : where there is no database, or the folder exists.
    BundleError : where the disk refuses; StoreError : where the database cannot be used.
    """
    if not exists(url):
        raise DataError(f"There is no database {shown(url)}: nothing to export. Name another with EARWITNESS_DATABASE.")
    if folder.exists():
        raise DataError(f"{folder} exists already, and a backup is never written over. Choose another name.")
    done: list[_Contents] = []
    with closing(Database(url)) as database, database.reading() as connection:
        write_folder(folder, _files(connection, done))
    return Transferred.of(done[0])


def import_targets(url: str, folder: Path) -> Transferred:
    """Take all that ``folder`` holds into a database that has no registration yet, or nothing of it.

    Raises
    ------
    DataError : where the folder is not whole, or the database has registrations. StoreError : where it cannot be used.
    """
    contents = _read(folder)
    with closing(Database(url)) as database, database.writing() as connection:
        count_change(connection)  # no other writer until the end
        held = connection.scalar(select(func.count()).select_from(registrations))
        if held:
            raise DataError(
                f"{database.name} holds {held} registrations, which an import would mix with its own. Import into an "
                "empty database: name another with EARWITNESS_DATABASE."
            )
        numbers: dict[tuple[str, str, Domain, int], int] = {}
        for one in contents.registrations:
            number = numbers[*one.place, one.version] = _insert(connection, one)
            rows = [_clip_row(folder, number, position, clip) for position, clip in enumerate(one.clips, 1)]
            connection.execute(insert(clips), rows)
        for key in contents.idempotency_keys:
            number = numbers[key.machine_type, key.section, key.domain, key.version]
            row = {"key": key.key, "request_sha256": key.request_sha256, "registration_id": number}
            connection.execute(insert(idempotency_keys).values(row))
        connection.execute(update(changes).values(version_floor=contents.floor(datetime.now(UTC))))
    return Transferred.of(contents)


def _files(connection: Connection, done: list[_Contents]) -> Iterator[tuple[str, bytes]]:
    """The files of a folder, one registration's clips in memory at a time; ``done`` gets what they hold."""
    current = set(connection.scalars(select(in_force.c.registration_id)))
    entries: list[_Registration] = []
    places: dict[int, dict[str, Any]] = {}
    written: set[str] = set()
    heads = connection.execute(
        select(registrations).order_by(*(registrations.c[name] for name in (*SECTION, "version")))
    )
    for head in heads.all():
        rows = connection.execute(select(clips).filter_by(registration_id=head.id).order_by(clips.c.position)).all()
        own = []
        for row in rows:
            intact = hashlib.sha256(row.audio).hexdigest() == row.sha256
            own.append(
                _Clip(
                    sha256=row.sha256,
                    duration_s=row.duration_s,
                    level_dbfs=row.level_dbfs,
                    clipped_share=row.clipped_share,
                    damaged=not intact,
                )
            )
            if intact and row.sha256 not in written:
                written.add(row.sha256)
                yield f"clips/{row.sha256}", row.audio
        places[head.id] = {name: getattr(head, name) for name in (*SECTION, "version")}
        entries.append(
            _Registration(
                **places[head.id],
                registered_at=head.registered_at,
                restored_from=head.restored_from,
                in_force=head.id in current,
                clips=tuple(own),
            )
        )
    keys = [
        _Key(key=row.key, request_sha256=row.request_sha256, **places[row.registration_id])
        for row in connection.execute(select(idempotency_keys).order_by(idempotency_keys.c.key))
    ]
    contents = _Contents(
        exported_at=datetime.now(UTC),
        version_floor=connection.scalars(select(changes.c.version_floor)).one(),
        registrations=tuple(entries),
        idempotency_keys=tuple(keys),
    )
    yield _CONTENTS, contents.model_dump_json(indent=1).encode()
    done.append(contents)


def _read(folder: Path) -> _Contents:
    try:
        return _Contents.model_validate_json((folder / _CONTENTS).read_bytes())
    except OSError as error:
        raise DataError(
            f"{folder} is no export of target clips: {_CONTENTS} cannot be read ({error.strerror}). Name the folder "
            f"that {shell_line('service targets export')} has written."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise DataError(
            f"{folder / _CONTENTS} cannot be used ({where}: {first['msg']}): it was changed, or written by a later "
            "release. Export again, or use that release."
        ) from error


def _insert(connection: Connection, one: _Registration) -> int:
    place = {"machine_type": one.machine_type, "section": one.section, "domain": one.domain.value}
    row = {
        **place,
        "version": one.version,
        "registered_at": one.registered_at.astimezone(UTC).isoformat(),
        "restored_from": one.restored_from,
    }
    number: int = connection.execute(insert(registrations).values(row).returning(registrations.c.id)).scalar_one()
    if one.in_force:
        connection.execute(insert(in_force).values(**place, registration_id=number))
    return number


def _clip_row(folder: Path, number: int, position: int, clip: _Clip) -> dict[str, object]:
    audio, file = b"", folder / "clips" / clip.sha256
    if not clip.damaged:
        try:
            audio = file.read_bytes()
        except OSError as error:
            raise DataError(
                f"{file} cannot be read ({error.strerror}), and so nothing was imported. Copy the folder again."
            ) from error
        if hashlib.sha256(audio).hexdigest() != clip.sha256:
            raise DataError(f"{file} is damaged, and so nothing was imported. Copy the folder again.")
    facts = clip.model_dump(exclude={"damaged"})
    return {"registration_id": number, "position": position, **facts, "audio": audio}
