"""Errors as RFC 9457 problem+json: the one table from the error tree to HTTP, and the handlers that apply it.

The framework's own errors are first translated into the tree, so that there is a single shape and a single table.
"""

import http
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from models import errors as model_errors
from models.errors import EarwitnessError
from service import errors

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:earwitness:problem:"
CLIENT_GONE = 499
"""What the log and the metrics call an answer that nobody waits for (the convention of proxies; it is never sent)."""

_log = logging.getLogger("service.problems")
_HANGING_UP = (
    errors.BodyTooLarge,
    errors.QueueFull,
    errors.DeadlinePassed,
    errors.Draining,
    errors.Unauthorized,
    errors.Forbidden,
    errors.ForeignOrigin,
    errors.ForeignHost,
)
"""What is answered on a connection's last breath: the rest of its body is not worth reading, nor another request."""
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table: the status, the last word of ``type``, the title and when to come back."""

    status: int
    slug: str
    title: str
    retry_after_s: int | None = None


INTERNAL = Kind(500, "internal-error", "Internal error")
KINDS: Mapping[type[Exception], Kind] = {
    errors.MalformedRequest: Kind(400, "malformed-request", "Malformed request"),
    model_errors.InvalidName: Kind(400, "invalid-name", "Invalid name"),
    errors.Unauthorized: Kind(401, "unauthorized", "Key needed"),
    errors.Forbidden: Kind(403, "forbidden", "Scope missing"),
    errors.ForeignOrigin: Kind(403, "foreign-origin", "Request of another site's page"),
    errors.ForeignHost: Kind(403, "foreign-host", "Not a name of this service"),
    errors.NoSuchPath: Kind(404, "not-found", "Not found"),
    model_errors.UnknownMachineType: Kind(404, "unknown-machine-type", "Unknown machine type"),
    model_errors.UnknownSection: Kind(404, "unknown-section", "Unknown section"),
    errors.UnknownBundle: Kind(404, "unknown-bundle", "Unknown bundle"),
    errors.UnknownTargetVersion: Kind(404, "unknown-target-version", "Unknown version of target clips"),
    errors.MethodNotAllowed: Kind(405, "method-not-allowed", "Method not allowed"),
    errors.RequestTooSlow: Kind(408, "request-too-slow", "Request too slow"),
    model_errors.NoTargetClips: Kind(409, "no-target-clips", "No target clips"),
    errors.TargetClipsUnusable: Kind(409, "target-clips-unusable", "Registered target clips cannot be used"),
    errors.IdempotencyConflict: Kind(409, "idempotency-conflict", "Idempotency key used for another request"),
    errors.NoPreviousBundle: Kind(409, "no-previous-bundle", "No previous bundle"),
    errors.ReloadInProgress: Kind(409, "reload-in-progress", "Another bundle is being loaded"),
    errors.BundleWatched: Kind(409, "bundle-watched", "A link says which bundle serves"),
    errors.BodyTooLarge: Kind(413, "body-too-large", "Body too large"),
    model_errors.ClipTooLong: Kind(413, "clip-too-long", "Clip too long"),
    errors.UnsupportedContentType: Kind(415, "unsupported-content-type", "Unsupported content type"),
    model_errors.NotAudio: Kind(415, "not-audio", "Not audio"),
    model_errors.UndecodableAudio: Kind(422, "undecodable-audio", "Audio cannot be decoded"),
    model_errors.ClipTooShort: Kind(422, "clip-too-short", "Clip too short"),
    model_errors.SilentClip: Kind(422, "silent-clip", "Silent clip"),
    model_errors.NonFiniteAudio: Kind(422, "non-finite-audio", "Audio is not finite"),
    model_errors.AudioError: Kind(422, "unusable-audio", "Audio cannot be used"),
    model_errors.TargetClipsError: Kind(422, "target-clips-refused", "Target clips refused"),
    errors.BundleRefused: Kind(422, "bundle-refused", "Bundle refused"),
    errors.QueueFull: Kind(429, "queue-full", "Too many requests in hand"),
    errors.ClientGone: Kind(CLIENT_GONE, "client-gone", "Client gone"),
    errors.TooManyConnections: Kind(503, "too-many-connections", "Too many connections", retry_after_s=1),
    errors.NotReady: Kind(503, "not-ready", "Not ready", retry_after_s=5),
    errors.Draining: Kind(503, "draining", "Shutting down", retry_after_s=5),
    errors.StoreError: Kind(503, "target-clips-unavailable", "Target clips unavailable", retry_after_s=5),
    errors.PromotionError: Kind(503, "promotion-not-kept", "Promotion cannot be kept", retry_after_s=5),
    errors.KeysError: Kind(503, "keys-unavailable", "Keys cannot be read", retry_after_s=5),
    errors.DeadlinePassed: Kind(504, "deadline-passed", "Deadline passed"),
}


def kind_of(error: Exception) -> Kind:
    """The row of the nearest class of ``error`` that the table knows; `INTERNAL` where there is none."""
    return next((KINDS[cls] for cls in type(error).__mro__ if cls in KINDS), INTERNAL)


def problem(scope: Scope, error: Exception) -> JSONResponse:
    """The answer to ``error``: never a stack trace, and nothing of an error that is not one of ours."""
    kind = kind_of(error)
    request_id = scope["state"]["request_id"]
    detail = str(error)
    if kind is INTERNAL:
        _log.error("%s %s failed", scope["method"], quote(scope["path"]), exc_info=error)
        detail = f"The service failed on this request. Its log tells more under request id {request_id}."
    if isinstance(error, (errors.StoreError, errors.TargetClipsUnusable, errors.PromotionError, errors.KeysError)):
        _log.error("%s", error)
    content: dict[str, Any] = {
        "type": TYPE_PREFIX + kind.slug,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "instance": quote(scope["path"]),
        "request_id": request_id,
        **_extensions(error),
    }
    retry_after_s = error.retry_after_s if isinstance(error, errors.QueueFull) else kind.retry_after_s
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    if isinstance(error, errors.MethodNotAllowed):
        headers["Allow"] = ", ".join(error.allowed)
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, _HANGING_UP):
        headers["Connection"] = "close"
    return JSONResponse(content, kind.status, headers, MEDIA_TYPE)


def _extensions(error: Exception) -> dict[str, Any]:
    lists_known = (
        model_errors.UnknownMachineType,
        model_errors.UnknownSection,
        errors.UnknownBundle,
        errors.UnknownTargetVersion,
    )
    if isinstance(error, lists_known):
        return {"known": list(error.known)}
    if isinstance(error, model_errors.TargetClipsError) and error.position is not None:
        return {"position": error.position}
    if isinstance(error, errors.MalformedRequest) and error.fields:
        return {"fields": list(error.fields)}
    return {}


def install(app: FastAPI) -> None:
    """Answer every error of the tree, and the framework's own, with a problem."""

    async def ours(request: Request, error: Exception) -> Response:
        return problem(request.scope, error)

    async def framework(request: Request, error: Exception) -> Response:
        return problem(request.scope, _translated(request, error))

    app.add_exception_handler(EarwitnessError, ours)
    for cls in (HTTPException, RequestValidationError, ClientDisconnect):
        app.add_exception_handler(cls, framework)


def _translated(request: Request, error: Exception) -> Exception:
    if isinstance(error, ClientDisconnect):
        return errors.ClientGone("The client closed the connection while it sent the body.")
    if isinstance(error, RequestValidationError):
        fields = [".".join(map(str, one["loc"])) for one in error.errors()]
        return errors.MalformedRequest(f"Malformed: {', '.join(fields)}. See /docs for what is expected.", fields)
    if isinstance(error, HTTPException) and error.status_code == http.HTTPStatus.METHOD_NOT_ALLOWED:
        return errors.MethodNotAllowed(request.method, request.scope["path"], _allowed(request))
    if isinstance(error, HTTPException) and error.status_code == http.HTTPStatus.NOT_FOUND:
        return errors.NoSuchPath(f"There is nothing at {request.scope['path']!r}. See /docs for what there is.")
    if isinstance(error, HTTPException) and error.status_code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
        return errors.MalformedRequest(f"{error.detail}. See /docs for what is expected.")
    return error


def _allowed(request: Request) -> list[str]:
    """Every method of the path: the framework names only those of the first route that matches."""
    scopes = [{**request.scope, "method": method} for method in _METHODS]
    return [
        scope["method"]
        for scope in scopes
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes)
    ]
