"""``/livez``, ``/readyz`` and ``/metrics``: for whoever runs and watches the service."""

import prometheus_client
from fastapi import APIRouter, Response

from service.access import Scope
from service.routes.common import InLoaded, InResources, RequestId, needs, problems, query_of
from service.schemas.common import DeviceAnswer
from service.schemas.health import AliveAnswer, ReadyAnswer

router = APIRouter(tags=["operation"], dependencies=[query_of()])
watched = APIRouter(tags=["operation"], dependencies=[needs(Scope.METRICS), query_of()])
"""Of whoever gathers metrics; it may have a port of its own."""


@router.get(
    "/livez",
    operation_id="livez",
    summary="Is the process alive?",
    response_model=AliveAnswer,
    responses=problems(400),
)
async def livez(request_id: RequestId) -> AliveAnswer:
    """Answers as long as the event loop turns."""
    return AliveAnswer(request_id=request_id)


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Can clips be scored?",
    response_model=ReadyAnswer,
    responses=problems(400, 503),
)
async def readyz(loaded: InLoaded, request_id: RequestId) -> ReadyAnswer:
    """Ready once the loaded bundle has reproduced its canary's scores on this machine."""
    return ReadyAnswer(bundle=loaded.bundle_id, device=DeviceAnswer.of(loaded.detector.device), request_id=request_id)


@watched.get(
    "/metrics",
    operation_id="metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."}, **problems(400)},
)
async def metrics(resources: InResources) -> Response:
    """Every metric, in Prometheus' text format."""
    return Response(resources.metrics.exposition(), media_type=prometheus_client.CONTENT_TYPE_LATEST)
