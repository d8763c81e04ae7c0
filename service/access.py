"""Who may ask for what: API keys with scopes, kept as digests in a file.

A key is 32 random bytes, so that its SHA-256 cannot be turned back by trying, as that of a password could. The file is
looked at with each request and read again when it has changed: a key that is revoked is refused from then on.
"""

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.commands import shell_line
from models.folders import locked, replace_file
from models.vocabulary import NAME_PATTERN, check_name
from service.errors import Forbidden, KeysError, Unauthorized

_PREFIX: Final = "ew_"
_PATIENCE_S: Final = 10.0
"""How long another command that changes the keys is waited for."""


class Access(StrEnum):
    """Who is answered."""

    OPEN = "open"
    """Everybody who reaches the service."""
    KEYS = "keys"
    """Who has a key with the scope that a request needs."""


class Scope(StrEnum):
    """What a key may be used for; `/livez`, `/readyz` and the documentation need none."""

    SCORE = "score"
    REGISTER = "register"
    ADMIN = "admin"
    METRICS = "metrics"


class Key(BaseModel):
    """A key without its secret."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    created_at: datetime


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[Key, ...] = ()


class KeyFile:
    """The keys of a service, in one file that only its owner may read."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: tuple[int, int, int] | None = None
        self._keys: tuple[Key, ...] = ()

    def read(self) -> tuple[Key, ...]:
        """The keys as they are now, none where there is no file.

        Raises
        ------
        KeysError : where the file cannot be read, or is none of ours.
        """
        try:
            state = self._file.stat()
            seen = (state.st_ino, state.st_mtime_ns, state.st_size)
            if seen != self._seen:
                self._keys = _Kept.model_validate_json(self._file.read_bytes()).keys
                self._seen = seen
        except FileNotFoundError:
            self._seen, self._keys = None, ()
        except (OSError, ValidationError) as error:
            self._seen = None
            reason = error.strerror if isinstance(error, OSError) else error.errors(include_url=False)[0]["msg"]
            raise KeysError(
                f"{self._file}: the keys cannot be read ({reason}). Make it readable for the service, or make keys "
                f"anew with {shell_line('service keys create NAME --scope score')}."
            ) from error
        return self._keys

    def create(self, name: str, scopes: Collection[Scope]) -> str:
        """A new key of this name; it is told here and nowhere else.

        Raises
        ------
        InvalidName : for a name that cannot be one.
        KeysError : where there is one of this name, or the file cannot be written.
        """
        check_name("key", name)
        secret = _PREFIX + secrets.token_urlsafe(32)
        key = Key(name=name, scopes=frozenset(scopes), sha256=_digest(secret), created_at=datetime.now(UTC))
        with self._changing() as keys:
            if any(one.name == name for one in keys):
                raise KeysError(f"There is a key {name!r} already. Choose another name, or revoke it first.")
            self._write((*keys, key))
        return secret

    def revoke(self, name: str) -> None:
        """Take a key out of force; raises `KeysError` where there is none of this name."""
        with self._changing() as keys:
            if all(key.name != name for key in keys):
                known = ", ".join(key.name for key in keys) or "none"
                raise KeysError(f"There is no key {name!r}. There are: {known}.")
            self._write([key for key in keys if key.name != name])

    def find(self, secret: str) -> Key | None:
        """The key with this secret; it takes as long for one that is nearly right as for any other."""
        digest = _digest(secret)
        found = [key for key in self.read() if hmac.compare_digest(key.sha256, digest)]
        return found[0] if found else None

    @contextmanager
    def _changing(self) -> Iterator[tuple[Key, ...]]:
        """The keys as they are, for who alone may change them meanwhile."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with locked(self._file.parent, _PATIENCE_S):
                yield self.read()
        except BlockingIOError as error:
            raise KeysError(
                f"{self._file}: the keys are being changed by another command, for {_PATIENCE_S:g} s already. End it, "
                "or try again."
            ) from error
        except OSError as error:
            raise KeysError(
                f"{self._file}: the keys cannot be written ({error.strerror}). Make the folder writable, with space "
                "on its disk, or choose another file with EARWITNESS_KEYS."
            ) from error

    def _write(self, keys: Sequence[Key]) -> None:
        replace_file(self._file, _Kept(keys=tuple(keys)).model_dump_json(indent=1).encode(), mode=0o600)


class Gate:
    """Lets requests in, or refuses them."""

    def __init__(self, keys: KeyFile, *, required: bool) -> None:
        self._keys = keys
        self._required = required

    def check_startable(self, host: str) -> None:
        """Raise `KeysError` where keys are needed and nobody has one."""
        if self._required and not self._keys.read():
            raise KeysError(
                f"On {host} the service answers only who has a key, and there is none. Make one "
                f"({shell_line('service keys create NAME --scope score')}), listen on 127.0.0.1, or let everybody in "
                "with EARWITNESS_ACCESS=open."
            )

    def admit(self, authorization: str | None, scopes: Collection[Scope]) -> str | None:
        """The name of the key that ``authorization`` holds, one with any of ``scopes``; None where none is needed.

        Raises
        ------
        Unauthorized : without a key, or with one that is not known.
        Forbidden : with one that lacks the scope.
        KeysError : where the keys cannot be read.
        """
        if not self._required:
            return None
        kind, _, secret = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not secret.strip():
            raise Unauthorized("This service needs a key. Send it as Authorization: Bearer KEY.")
        key = self._keys.find(secret.strip())
        if key is None:
            raise Unauthorized("The key is not known here; it may have been revoked. Ask who runs the service for one.")
        if key.scopes.isdisjoint(scopes):
            raise Forbidden(
                f"The key {key.name!r} has the scope {_listing(key.scopes)}; {_listing(scopes)} is needed here.",
                key.name,
            )
        return key.name


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a service that listens on ``host``."""
    address = as_address(host)
    if address is None:
        return host == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None  # Python 3.11 looks past it
    return (mapped or address).is_loopback


def as_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that ``host`` is; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def host_name(place: str) -> str:
    """The name or address of ``host:port`` as it is compared: in small letters, without brackets and the last dot."""
    place = place.lower()
    if place.startswith("["):
        return place[1:].partition("]")[0]
    return place if as_address(place) else place.partition(":")[0].removesuffix(".")


def _listing(scopes: Collection[Scope]) -> str:
    return " or ".join(sorted(scopes))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
