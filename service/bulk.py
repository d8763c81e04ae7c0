"""Scoring many clips: with a bundle loaded here, or with a running service. A bad clip becomes a row, not an end."""

import asyncio
import csv
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import httpx
from pydantic import SecretStr
from tqdm import tqdm

from models.commands import shell_line
from models.detector import Detector
from models.errors import DataError, EarwitnessError, NoTargetClips
from models.systems import TargetModel
from models.vocabulary import Decision, Domain, SectionKey
from service.adaptation import Adaptation
from service.databases import exists
from service.detection import Detection
from service.errors import (
    DeadlinePassed,
    Draining,
    Forbidden,
    MalformedRequest,
    NotReady,
    QueueFull,
    StoreError,
    Unauthorized,
)
from service.problems import KINDS, TYPE_PREFIX, kind_of
from service.registered import Registered, TargetState
from service.schemas.scoring import ScoreAnswer
from service.settings import Settings
from service.sheets import Row, Sheet, key_of
from service.targets import TargetStore

_SUFFIXES = {".wav", ".flac", ".ogg"}
_BUSY = {TYPE_PREFIX + KINDS[error].slug for error in (QueueFull, NotReady, Draining)}
"""What no clip is answered for: once patience is at an end, the command is."""
_PASSING = _BUSY | {TYPE_PREFIX + KINDS[error].slug for error in (DeadlinePassed, StoreError)}
"""What is asked again; beyond `_BUSY` it may be this clip's own trouble, which then becomes a row."""
_PATIENCE_S = 60.0
"""How long a clip is asked for again."""
_CLOSED = {TYPE_PREFIX + KINDS[error].slug for error in (Unauthorized, Forbidden)}
"""What no clip is answered for without another key."""


@dataclass(frozen=True, slots=True)
class Job:
    """One clip and the question about it."""

    path: Path
    machine_type: str
    section: str
    domain: str

    @property
    def row(self) -> dict[str, Any]:
        """The first columns of its row."""
        return {
            "path": str(self.path),
            "machine_type": self.machine_type,
            "section": self.section,
            "domain": self.domain,
        }

    def read(self) -> bytes:
        """The bytes of the clip; raises `DataError`."""
        try:
            return self.path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: no path can be so
            raise DataError(f"The clip cannot be read ({error}).") from error


class Scorer(Protocol):
    """Who answers; raises `EarwitnessError` for a clip, `ServiceUnavailable` where no clip can be answered."""

    bundle: str

    def score(self, job: Job) -> Row:
        """The answer, as `POST /score` gives it."""


class ServiceUnavailable(EarwitnessError):
    """The service does not answer, or answers what none of ours would."""


class Refused(EarwitnessError):
    """A service's problem with one clip; ``slug`` is the last word of its type."""

    def __init__(self, problem: Row) -> None:
        self.type = str(problem["type"])
        super().__init__(problem["detail"])


def find_jobs(sources: Sequence[Path], machine_type: str | None, section: str, domain: str) -> list[Job]:
    """Every clip of ``sources``: clips, folders (searched throughout) and CSV manifests, whose columns go first.

    Raises
    ------
    DataError : for a source that is not there or holds no clip, and where a machine type is missing.
    """
    jobs = [job for source in sources for job in _jobs_of(source, machine_type or "", section, domain)]
    if any(not job.machine_type for job in jobs):
        raise DataError("The machine type is missing. Give --machine-type, or a manifest with that column.")
    return jobs


def _jobs_of(source: Path, machine_type: str, section: str, domain: str) -> list[Job]:
    if source.is_dir():
        clips = sorted(path for path in source.rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not clips:
            raise DataError(f"There is no {', '.join(sorted(_SUFFIXES))} file in {source}.")
        return [Job(clip, machine_type, section, domain) for clip in clips]
    if not source.exists():
        raise DataError(f"There is no {source}. Give clips, folders or CSV manifests that exist.")
    if source.suffix.lower() != ".csv":
        return [Job(source, machine_type, section, domain)]
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            rows = [
                {name.strip(): value.strip() for name, value in row.items() if name and value}
                for row in csv.DictReader(file, restkey="")
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The manifest {source} cannot be read ({error}). Save it as CSV in UTF-8.") from error
    if not rows or any(not row.get("path") for row in rows):
        raise DataError(f"{source} is no manifest: it needs a header with a column 'path', and rows that fill it.")
    return [
        Job(
            source.parent / row["path"],
            row.get("machine_type") or machine_type,
            row.get("section") or section,
            row.get("domain") or domain,
        )
        for row in rows
    ]


def score_all(jobs: Sequence[Job], scorer: Scorer, sheet: Sheet) -> int:
    """Score what the sheet does not hold yet; the exit status that all of its rows for ``jobs`` together mean."""
    counts = {"normal": 0, "anomalous": 0, "undecided": 0, "failed": 0}
    for job in tqdm(jobs, unit="clip", disable=None):
        row = sheet.rows.get(key_of(job.row))
        if row is None:
            row = _row(job, scorer)
            sheet.write(row)
        counts["failed" if row.get("error") else row["decision"] or "undecided"] += 1
    print(", ".join(f"{count} {name}" for name, count in counts.items() if count), file=sys.stderr)
    return 2 if counts["failed"] else 1 if counts[Decision.ANOMALOUS] else 0


def _row(job: Job, scorer: Scorer) -> Row:
    try:
        return {**job.row, **scorer.score(job)}
    except ServiceUnavailable:
        raise
    except EarwitnessError as error:
        kind = error.type if isinstance(error, Refused) else TYPE_PREFIX + kind_of(error).slug
        return {**job.row, "decision": None, "error": {"type": kind, "detail": str(error)}}


class LocalScorer:
    """Scores with a bundle loaded here, on the service's own path; registrations in its database count too."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __enter__(self) -> Self:
        """Load the bundle."""
        settings = self._settings
        detector = Detector.load(
            settings.bundle,
            device=settings.device,
            threads=settings.threads,
            false_alarm_rate=settings.false_alarm_rate_of,
            public_key=settings.public_key,
        )
        self.bundle = detector.bundle.id
        with ExitStack() as opened:
            self._runner = opened.enter_context(asyncio.Runner())
            self._detection = self._runner.run(self._open(detector))
            opened.callback(lambda: self._runner.run(self._detection.close(0.0)))
            self._target_clips: tuple[Registered, Adaptation] | None = None
            if exists(settings.database):
                store = opened.enter_context(TargetStore(settings.database))
                registered = self._runner.run(Registered(store).open())
                opened.callback(registered.close)
                self._target_clips = registered, Adaptation(self._detection, registered)
            self._closing = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the threads."""
        self._closing.close()

    def score(self, job: Job) -> Row:
        """Score one clip."""
        return self._runner.run(self._score(job))

    async def _open(self, detector: Detector) -> Detection:
        detection = Detection(
            detector,
            threads=self._settings.threads,
            capacity=self._settings.queue_capacity,
            max_batch=self._settings.max_batch_windows,
            max_clip_s=self._settings.max_clip_s,
        )
        detection.batcher.start()
        return detection

    async def _score(self, job: Job) -> Row:
        detector, deadline = self._detection.detector, float("inf")
        key = detector.find(job.machine_type, job.section)
        if job.domain not in list(Domain):
            raise MalformedRequest(f"The domain is {job.domain!r}: use 'source' or 'target'.", ["domain"])
        target, version, state = None, None, None
        if job.domain == Domain.TARGET:
            target, version, state = await self._target(key)
        audio = await asyncio.to_thread(job.read)
        assessment = await self._detection.score(audio, key, Domain(job.domain), target=target, deadline=deadline)
        request_id = uuid.uuid4().hex
        answer = ScoreAnswer.of(
            assessment, bundle=self.bundle, target_version=version, target_state=state, request_id=request_id
        )
        return answer.model_dump(mode="json")

    async def _target(self, key: SectionKey) -> tuple[TargetModel, int, TargetState]:
        if self._target_clips is not None:
            registered, adaptation = self._target_clips
            await registered.refresh()
            return await adaptation.scoring_target(key, float("inf"))
        model = self._detection.detector.bundle_target(key)
        if model is None:
            raise NoTargetClips(key.machine_type, key.section)
        return model, 0, TargetState.CURRENT


class HttpScorer:
    """Scores with the service at ``url``; asks again where it is busy or slow."""

    def __init__(self, url: str, api_key: SecretStr | None = None) -> None:
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key.get_secret_value()}"}
        self._client = httpx.Client(base_url=url, timeout=120.0, headers=headers)

    def __enter__(self) -> Self:
        """Ask which bundle it serves."""
        try:
            self.bundle = str(self._ask("GET", "/bundle")["bundle"])
        except EarwitnessError:
            self._client.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._client.close()

    def score(self, job: Job) -> Row:
        """Score one clip."""
        fields = {"machine_type": job.machine_type, "section": job.section, "domain": job.domain}
        return self._ask("POST", "/score", data=fields, files={"audio": ("clip", job.read())})

    def _ask(self, method: str, path: str, **body: Any) -> Row:
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                answer = self._client.request(method, path, **body)
                content = _content(answer)
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                raise ServiceUnavailable(
                    f"The service at {self._client.base_url} does not answer as one ({error!r}). Start it with "
                    f"{shell_line('service serve')}, or leave --url out."
                ) from error
            if answer.status_code < 400:
                return content
            if content["type"] in _CLOSED:
                raise ServiceUnavailable(
                    f"The service at {self._client.base_url} answers only who has a key: {content['detail']} Set "
                    "EARWITNESS_API_KEY to a key of scope score, which is sent then; who runs the service makes one "
                    f"with {shell_line('service keys create NAME --scope score')}."
                )
            patient = time.monotonic() < until
            if content["type"] not in (_PASSING if patient else _BUSY):
                raise Refused(content)
            if not patient:
                raise ServiceUnavailable(f"The service stayed busy for {_PATIENCE_S:g} s: {content['detail']}")
            time.sleep(float(answer.headers.get("retry-after", "1")))


def _content(answer: httpx.Response) -> Row:
    """The answer or problem of a service of ours; raises ValueError for another's."""
    content = answer.json()
    expected = {"type", "detail"} if answer.is_error else {"bundle"}
    if not isinstance(content, dict) or not expected <= content.keys():
        raise ValueError(f"status {answer.status_code} without {' and '.join(sorted(expected))}")
    return content
