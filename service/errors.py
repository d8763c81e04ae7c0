"""What can go wrong in the service beyond the models' tree; the same rule: a sentence with the value and the remedy.

::

    EarwitnessError                 models/errors.py
    └── ServiceError
        ├── MalformedRequest        a missing, unknown or unreadable field; ``fields`` names them
        ├── Unauthorized            no key, or one that is not known
        ├── Forbidden               a key without the scope that is needed
        ├── ForeignOrigin           a web page of others that would change something, where no key is needed
        ├── ForeignHost             asked for by a name that is not this machine's, where no key is needed
        ├── KeysError               the keys cannot be read or written, or there is none where one is needed
        ├── NoSuchPath              nothing is served there
        ├── MethodNotAllowed
        ├── BodyTooLarge
        ├── UnsupportedContentType  of the body as a whole; what a clip's bytes are is `models.errors.NotAudio`
        ├── IdempotencyConflict     another request under the same key
        ├── RequestTooSlow          a head that does not come to its end
        ├── TooManyConnections
        ├── QueueFull
        ├── UnknownBundle           no bundle of that name in the bundles' folder
        ├── BundleRefused           one that cannot serve; the one before goes on
        ├── NoPreviousBundle        nothing to go back to
        ├── ReloadInProgress        another bundle is being loaded
        ├── BundleWatched           a link says what serves, and no request
        ├── PromotionError          what was promoted cannot be kept, or not be read
        ├── NotReady                loading, or refused at loading
        ├── Draining
        ├── DeadlinePassed
        ├── ClientGone              nobody waits for the answer any more
        ├── StoreError              the database of target clips cannot be used
        ├── TargetClipsUnusable     the clips registered there cannot, and will not until others are registered
        └── UnknownTargetVersion    the section has never had it
"""

from collections.abc import Sequence

from models.errors import EarwitnessError


class ServiceError(EarwitnessError):
    """Base of the service's own errors; ``in_doubt``: what was asked for may have been done all the same."""

    def __init__(self, message: str, *, in_doubt: bool = False) -> None:
        self.in_doubt = in_doubt
        super().__init__(message)


class MalformedRequest(ServiceError):
    """A request that does not have the shape of the contract; ``fields`` are the offenders."""

    def __init__(self, message: str, fields: Sequence[str] = ()) -> None:
        self.fields = tuple(fields)
        super().__init__(message)


class Unauthorized(ServiceError):
    """A request without a key that is known."""


class Forbidden(ServiceError):
    """A key without the scope that the request needs; ``key`` is its name."""

    def __init__(self, message: str, key: str) -> None:
        self.key = key
        super().__init__(message)


class ForeignOrigin(ServiceError):
    """A request of another site's web page."""


class ForeignHost(ServiceError):
    """A request for a name that is none of this service."""


class KeysError(ServiceError):
    """The keys cannot be read or written, or none is there where one is needed."""


class NoSuchPath(ServiceError):
    """Nothing is served at this path."""


class MethodNotAllowed(ServiceError):
    """The path is served, but not with this method; ``allowed`` are those it has."""

    def __init__(self, method: str, path: str, allowed: Sequence[str]) -> None:
        self.allowed = tuple(allowed)
        super().__init__(f"{path} does not answer {method}. Use {' or '.join(self.allowed)}.")


class BodyTooLarge(ServiceError):
    """More bytes than a request may have."""


class UnsupportedContentType(ServiceError):
    """The body's content type is none that the path reads."""


class IdempotencyConflict(ServiceError):
    """The Idempotency-Key belongs to an earlier, different registration."""


class RequestTooSlow(ServiceError):
    """The head of a request was not whole in time."""


class TooManyConnections(ServiceError):
    """As many connections are open as the service may hold."""


class QueueFull(ServiceError):
    """As many requests are in hand as the service may hold, or as can be answered in time."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class UnknownBundle(ServiceError):
    """There is no bundle of this name; ``known`` are those there are."""

    def __init__(self, message: str, known: Sequence[str]) -> None:
        self.known = tuple(known)
        super().__init__(message)


class BundleRefused(ServiceError):
    """A bundle that cannot take over: damaged, of another format, or with other scores here."""


class NoPreviousBundle(ServiceError):
    """A rollback where no bundle was replaced."""


class ReloadInProgress(ServiceError):
    """A reload while another one is under way."""


class BundleWatched(ServiceError):
    """A reload by a request, where the service follows a link."""


class PromotionError(ServiceError):
    """Which bundle was promoted cannot be kept, or not be read."""


class NotReady(ServiceError):
    """The bundle is still loading, or could not be loaded."""


class Draining(ServiceError):
    """The service is shutting down: a new request is not taken on, or one in hand was not done in time."""

    def __init__(self) -> None:
        super().__init__("The service is shutting down. Send the request again in a moment.")


class DeadlinePassed(ServiceError):
    """The request's time was up before its answer was ready."""


class ClientGone(ServiceError):
    """The client closed the connection before the answer."""


class StoreError(ServiceError):
    """The database of target clips cannot be used."""


class TargetClipsUnusable(ServiceError):
    """The target clips in force cannot score: one is damaged, or the loaded bundle cannot use them."""


class UnknownTargetVersion(ServiceError):
    """A version that the section's registrations never had; ``known`` are those they had."""

    def __init__(self, machine_type: str, section: str, version: int, known: Sequence[int]) -> None:
        self.known = tuple(known)
        there_are = f"There are {', '.join(map(str, known))}." if known else "There is none yet."
        super().__init__(
            f"{machine_type} {section} has no registration of version {version}. {there_are} The bundle's own target "
            "clips, version 0, come back with DELETE."
        )
