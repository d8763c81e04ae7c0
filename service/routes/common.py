"""What every route has: the app's resources, the request's id, and the refusal of query parameters it does not know."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Path, Request

from models.vocabulary import NAME_PATTERN
from service.access import Scope
from service.errors import Forbidden
from service.origins import check_origin
from service.problems import MEDIA_TYPE
from service.requests import refuse_unknown
from service.resources import Loaded, Resources


async def _resources(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


async def _loaded(request: Request) -> AsyncIterator[Loaded]:
    with (await _resources(request)).hold() as loaded:
        yield loaded


async def _request_id(request: Request) -> str:
    request_id: str = request.scope["state"]["request_id"]
    return request_id


def query_of(*known: str) -> Any:
    """A dependency that refuses query parameters beyond ``known``, naming them."""

    async def check(request: Request) -> None:
        refuse_unknown("query parameter", request.query_params.keys(), known)

    return Depends(check)


def needs(*scopes: Scope) -> Any:
    """A dependency that refuses who has no key with any of ``scopes``; where none is needed, pages of other sites."""

    async def check(request: Request) -> None:
        resources = await _resources(request)
        gate = resources.gate_for(request.scope)
        try:
            request.scope["state"]["key"] = gate.admit(request.headers.get("authorization"), scopes)
        except Forbidden as error:
            request.scope["state"]["key"] = error.key
            raise
        if not resources.settings.keys_required:
            check_origin(request.scope, resources.settings.known_hosts)

    return Depends(check)


def question() -> Any:
    """A dependency that holds a place among those who ask; clips have places of their own, and neither waits."""

    async def hold(request: Request) -> AsyncIterator[None]:
        with (await _resources(request)).questions.place():
            yield

    return Depends(hold)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of the errors that a path can answer with; where keys are needed, every path has two more."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _MEANINGS[status], "content": content} for status in (*statuses, 401, 403)}


_MEANINGS = {
    400: "Malformed request: a missing, unknown or unreadable field, or an invalid name.",
    401: "No key, or one that is not known.",
    403: "The key lacks the scope that is needed; or, where no key is needed, another site's page or name.",
    404: "Unknown machine type, section, version or bundle; `known` lists those there are.",
    409: "No target clips are known here or those registered cannot be used; or the Idempotency-Key is another's; or "
    "no bundle can be put in service now.",
    413: "The body is too large or the clip too long.",
    415: "Not audio, or a content type that is not read here.",
    422: "Audio that cannot be scored: too short, silent, not finite, not decodable; or a bundle that cannot serve.",
    429: "As many requests are in hand as the service holds, or as it can answer by the deadline. Retry-After says "
    "when to come back.",
    503: "Not ready, shutting down, or the database of target clips or another file unavailable. Retry-After says when "
    "to come back.",
    504: "The request's deadline passed.",
}

InResources = Annotated[Resources, Depends(_resources)]
InLoaded = Annotated[Loaded, Depends(_loaded)]
RequestId = Annotated[str, Depends(_request_id)]
InPath = Annotated[str, Path(json_schema_extra={"pattern": NAME_PATTERN})]
"""A name in a path; the document tells its pattern, and the look-up refuses other names in its own words."""
