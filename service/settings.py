"""The one place that reads the environment: every setting is a field here, ``EARWITNESS_<NAME>`` outside."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

import models
from models.encoder import Device
from models.vocabulary import NAME_PATTERN, SectionKey
from service.access import Access, host_name, is_loopback
from service.logs import LogFormat

DEMONSTRATION = Path(models.__file__).parent / "bundles" / "demonstration"
_MIB = 1024 * 1024
_SQLITE = "sqlite:///"
_POSTGRESQL = "postgresql+psycopg://"
_SCOPE = rf"^{NAME_PATTERN[1:-1]}(/{NAME_PATTERN[1:-1]})?$"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Settings(BaseSettings):
    """What an operator can choose. Facts of a bundle (front end, thresholds, members) are never settings."""

    model_config = SettingsConfigDict(
        env_prefix="EARWITNESS_",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    bundle: Path = DEMONSTRATION
    """The bundle folder to serve, or a symbolic link to one."""

    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 opens the service to the network."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """The port to listen on; 0 takes a free one and logs it."""

    bundles_dir: Path = Path("bundles")
    """The folder of the bundles that POST /bundle/reload names."""

    watch: bool = False
    """Whether the service follows the symbolic link that EARWITNESS_BUNDLE is: to another bundle, without a restart."""

    promotion: Path | None = None
    """The file that keeps which bundle was promoted last; by default beside the database's file, its name with
    .promoted.json added, and data/promoted.json where the database is no file."""

    public_key: Path | None = None
    """The file of the public key whose owner must have signed a bundle; without one, unsigned bundles are served
    too."""

    access: Access | None = None
    """Who is answered: open is everybody, keys is who has a key; by default keys, but open where the service listens on
    this machine alone."""

    known_hosts: frozenset[Annotated[str, Field(pattern=r"^[A-Za-z0-9.:\[\]-]+$"), AfterValidator(host_name)]] = (
        frozenset()
    )
    """Names with a dot by which the service may be asked where it needs no key, as JSON: ["earwitness.plant"]; others
    are refused to who comes over the loopback, and to everybody where a name stands here."""

    keys: Path = Path("data/keys.json")
    """The file that keeps the digests of API keys; python -m service keys makes them."""

    audit: Path | None = None
    """A file to which the lines of the audit log are added too, as JSON, by the service and by commands that change
    something."""

    api_key: SecretStr | None = None
    """The key that score --url sends."""

    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Another port for GET /metrics, which is then not served on the common one."""

    device: Device = Device.AUTO
    """Where the networks run: cuda refuses to start where it cannot, auto falls back to the CPU and says so."""

    threads: Annotated[int, Field(ge=1, le=1024)] = Field(default_factory=_cores)
    """Threads for decoding, features and scores, and for the networks on a CPU; by default one a core."""

    database: str = "data/earwitness.db"
    """Where registered target clips are kept: the path of an SQLite file, or an sqlite:/// or postgresql:// URL."""

    versions_kept: Annotated[int, Field(ge=2, le=100_000)] = 100
    """How many versions of a section's target clips are kept, the newest; older ones go as new ones
    are registered, twenty at a time, and what is in force never does."""

    idempotency_keys_s: Annotated[float, Field(ge=60.0, le=31_536_000.0)] = 86_400.0
    """How long a repeated request with the same Idempotency-Key is known, in seconds, and the version that it made
    kept."""

    false_alarm_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """The share of normal clips that may be called anomalous; thresholds follow it without training again."""

    false_alarm_rates: dict[Annotated[str, Field(pattern=_SCOPE)], Annotated[float, Field(gt=0.0, lt=1.0)]] = Field(
        default_factory=dict
    )
    """Other shares for a machine type or a section of it, as JSON: {"fan": 0.05, "slider/01": 0.02}."""

    max_clip_s: Annotated[float, Field(ge=2.0, le=3600.0)] = 60.0
    """The longest clip that is scored, in seconds, counted in decoded samples."""

    max_upload_bytes: Annotated[int, Field(ge=1024)] = 32 * _MIB
    """The largest body of POST /score, counted while it is read."""

    max_registration_bytes: Annotated[int, Field(ge=1024)] = 128 * _MIB
    """The largest body of POST /target-samples, counted while it is read."""

    queue_capacity: Annotated[int, Field(ge=1, le=100_000)] = 64
    """How many clips and registrations may be in hand at once, from the first byte of the body to the answer, and as
    many questions about sections and registrations beside them; one more is answered 429."""

    max_bytes_in_hand: Annotated[int, Field(ge=1024)] = 512 * _MIB
    """How many bytes the bodies in hand may have together, each held once in memory; one that would pass this is
    answered 429, unless it is the only one."""

    max_batch_windows: Annotated[int, Field(ge=1, le=4096)] = 32
    """The most ten-second windows that go through the networks in one run."""

    request_timeout_s: Annotated[float, Field(gt=0.0, le=3600.0)] = 30.0
    """How long a request may take before it is answered 504; a client's X-Request-Timeout-Ms can only shorten it."""

    max_connections: Annotated[int, Field(ge=1, le=100_000)] = 512
    """How many connections may be open at once; over one more, only health and metrics are answered, all else 503.
    There may be 32 of those, with a second each to say what they want; any further one is closed unheard."""

    head_timeout_s: Annotated[float, Field(gt=0.0, le=3600.0)] = 10.0
    """How long a connection may take to send the head of its next request, from its opening or the first byte on: 408
    then, and it is closed; as long may a client take to read an answer."""

    keep_alive_s: Annotated[int, Field(ge=1, le=3600)] = 5
    """How long a connection is kept open for a further request; a proxy in front should keep its own for less."""

    drain_s: Annotated[float, Field(ge=0.0, le=3600.0)] = 20.0
    """How long requests in hand may take to finish after SIGTERM."""

    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    """What is logged: debug, info, warning or error."""

    log_format: LogFormat | None = None
    """How the service writes its log: json or text; by default text on a terminal, and json elsewhere."""

    traces_endpoint: Annotated[str, Field(pattern="^https?://")] | None = None
    """Where OpenTelemetry traces go, by OTLP over HTTP: http://collector:4318/v1/traces. Needs the extra tracing."""

    @field_validator("database")
    @classmethod
    def _absolute(cls, value: str) -> str:
        """Keep one absolute URL, so that the start log names a file that can be found."""
        scheme, separator, rest = value.partition("://")
        if separator and scheme in {"postgresql", "postgresql+psycopg"}:
            return _POSTGRESQL + rest
        if separator and not value.startswith(_SQLITE):
            raise ValueError(
                f"no database has the scheme {scheme!r}: give a path, or an {_SQLITE} or postgresql:// URL"
            )
        return _SQLITE + str(Path(value.removeprefix(_SQLITE)).absolute())

    @field_validator("bundles_dir", "keys")
    @classmethod
    def _absolute_path(cls, value: Path) -> Path:
        """Errors name a place that can be found."""
        return value.absolute()

    def false_alarm_rate_of(self, key: SectionKey) -> float:
        """The share that holds for a section: its own, its machine type's, or the common one."""
        own, common = f"{key.machine_type}/{key.section}", self.false_alarm_rate
        return self.false_alarm_rates.get(own, self.false_alarm_rates.get(key.machine_type, common))

    def unheard_rates(self, keys: Iterable[SectionKey]) -> list[str]:
        """Which of `false_alarm_rates` are for no section of a bundle with these."""
        known = {name for key in keys for name in (key.machine_type, f"{key.machine_type}/{key.section}")}
        return sorted(self.false_alarm_rates.keys() - known)

    @property
    def keys_required(self) -> bool:
        """Whether only who has a key is answered."""
        return self.access is Access.KEYS or (self.access is None and not is_loopback(self.host))

    @property
    def promotion_file(self) -> Path:
        """Where the promoted bundle's name is kept: an instance's own, also where several share a database."""
        if self.promotion is not None:
            return self.promotion
        if not self.database.startswith(_SQLITE):
            return Path("data/promoted.json").absolute()
        file = Path(self.database.removeprefix(_SQLITE))
        return file.with_name(f"{file.name}.promoted.json")


def not_json(error: SettingsError) -> str:
    """What is wrong with a setting of several values, for a person; the library names neither value nor form."""
    names = [name for name in Settings.model_fields if f'"{name}"' in str(error)]
    variable = "EARWITNESS_" + "".join(names).upper()
    example = '{"fan": 0.05}' if names == ["false_alarm_rates"] else '["earwitness.plant"]'
    return f"{variable}: it must be JSON, such as '{example}' (it is {os.environ.get(variable)!r})"


def unknown_variables() -> list[str]:
    """The ``EARWITNESS_`` variables that name no setting: misspelt ones would otherwise go unnoticed."""
    prefix = "EARWITNESS_"
    known = {prefix + name.upper() for name in Settings.model_fields}
    return sorted(name for name in os.environ if name.upper().startswith(prefix) and name.upper() not in known)
