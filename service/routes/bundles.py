"""``POST /bundle/reload`` and ``/bundle/rollback``: another bundle takes over while the service runs."""

from typing import Any

from fastapi import APIRouter, Request

from service.access import Scope
from service.audit import note
from service.loading import LOADING_S
from service.requests import JSON, deadline, read_json
from service.routes.common import InResources, RequestId, needs, problems, query_of
from service.schemas.bundles import ReloadAnswer, ReloadParameters

router = APIRouter(prefix="/bundle", tags=["operation"], dependencies=[needs(Scope.ADMIN), query_of()])

_OPENAPI: dict[str, Any] = {
    "requestBody": {"required": True, "content": {JSON: {"schema": ReloadParameters.model_json_schema()}}}
}


@router.post(
    "/reload",
    operation_id="reload_bundle",
    summary="Put another bundle in service",
    response_model=ReloadAnswer,
    responses=problems(400, 404, 409, 413, 415, 422, 503, 504),
    openapi_extra=_OPENAPI,
)
async def reload(request: Request, resources: InResources, request_id: RequestId) -> ReloadAnswer:
    """Load a bundle beside the one that serves, and let it take over once it has reproduced its canary.

    No request is dropped, each is answered by one bundle from its beginning to its end, and a bundle that is refused
    changes nothing. A restart serves what took over. Where the answer did not come, `GET /bundle` says what serves.
    """
    due, sent_by = deadline(request, LOADING_S), deadline(request, resources.settings.request_timeout_s)
    async with resources.admission.until(sent_by):
        wanted = await read_json(request, ReloadParameters, lambda _: None)  # takes no place: clips may fill all
    async with resources.admission.until(due):
        resources.check_ready()
        note(bundle=wanted.bundle)
        return ReloadAnswer.of(await resources.serving.reload(wanted.bundle), request_id)


@router.post(
    "/rollback",
    operation_id="rollback_bundle",
    summary="Back to the bundle before",
    response_model=ReloadAnswer,
    responses=problems(400, 404, 409, 422, 503, 504),
)
async def rollback(request: Request, resources: InResources, request_id: RequestId) -> ReloadAnswer:
    """Put the bundle in service again that was replaced last; a second rollback undoes the first."""
    due = deadline(request, LOADING_S)
    async with resources.admission.until(due):
        resources.check_ready()
        return ReloadAnswer.of(await resources.serving.rollback(), request_id)
