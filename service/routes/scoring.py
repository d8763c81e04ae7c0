"""``POST /score``: one clip, as a multipart field or as the whole body."""

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request

from models.vocabulary import NAME_PATTERN, Domain
from service.access import Scope
from service.admission import Hold
from service.requests import (
    AUDIO_TYPES,
    MULTIPART,
    content_type,
    deadline,
    one_file,
    parameters,
    read_audio,
    read_form,
    refuse_unknown,
    unsupported,
    while_connected,
)
from service.resources import Loaded, Resources
from service.routes.common import InLoaded, InResources, RequestId, needs, problems
from service.schemas.scoring import ScoreAnswer, ScoreParameters

router = APIRouter(tags=["scoring"], dependencies=[needs(Scope.SCORE)])

_PARAMETERS: dict[str, Any] = {
    "machine_type": {"type": "string", "pattern": NAME_PATTERN, "examples": ["fan"]},
    "section": {"type": "string", "pattern": NAME_PATTERN, "examples": ["00"]},
    "domain": {"type": "string", "enum": ["source", "target"]},
    "explain": {"type": "boolean", "default": False},
}
_REQUIRED = ["machine_type", "section", "domain"]
_OPENAPI: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": schema,
            "description": "For a raw body; a multipart body has it as a form field.",
        }
        for name, schema in _PARAMETERS.items()
    ],
    "requestBody": {
        "required": True,
        "content": {
            MULTIPART: {
                "schema": {
                    "type": "object",
                    "required": ["audio", *_REQUIRED],
                    "properties": {"audio": {"type": "string", "format": "binary"}, **_PARAMETERS},
                    "additionalProperties": False,
                }
            },
            **{media: {"schema": {"type": "string", "format": "binary"}} for media in sorted(AUDIO_TYPES)},
        },
    },
}


@router.post(
    "/score",
    operation_id="score_clip",
    summary="Score one clip",
    response_model=ScoreAnswer,
    responses=problems(400, 404, 409, 413, 415, 422, 429, 503, 504),
    openapi_extra=_OPENAPI,
)
async def score(request: Request, resources: InResources, loaded: InLoaded, request_id: RequestId) -> ScoreAnswer:
    """Say how anomalous a clip is, and whether that is normal for this machine, in this condition."""
    settings = resources.settings
    due = deadline(request, settings.request_timeout_s)
    with resources.admission.place() as hold:
        async with resources.admission.until(due):
            loaded.detection.forecast.check(due)  # before the clip is sent
            wanted, audio = await _read(request, loaded, settings.max_upload_bytes, hold)
            return await while_connected(
                request, _score(resources, loaded, wanted, audio, due=due, request_id=request_id)
            )


async def _read(request: Request, loaded: Loaded, limit: int, hold: Hold) -> tuple[ScoreParameters, bytes]:
    media, query = content_type(request), request.query_params.multi_items()
    refuse_unknown("query parameter", {name for name, _ in query}, ScoreParameters.model_fields)
    if media == MULTIPART:
        form = await read_form(request, limit, hold)
        audio = one_file(form)
        return parameters(ScoreParameters, [*query, *form.texts]), audio
    if media not in AUDIO_TYPES:
        raise unsupported(request, [MULTIPART, "audio/wav", "audio/flac", "audio/ogg"])
    wanted = parameters(ScoreParameters, query)
    loaded.find(wanted.machine_type, wanted.section)  # a wrong name is told before the clip is sent
    return wanted, await read_audio(request, limit, hold)


async def _score(
    resources: Resources, loaded: Loaded, wanted: ScoreParameters, audio: bytes, *, due: float, request_id: str
) -> ScoreAnswer:
    key = loaded.find(wanted.machine_type, wanted.section)
    target, version, state = None, None, None
    if wanted.domain is Domain.TARGET:
        target, version, state = await loaded.adaptation.scoring_target(key, due)
    assessment = await loaded.detection.score(
        audio, key, wanted.domain, target=target, deadline=due, explain=wanted.explain
    )
    resources.metrics.observe_assessment(assessment)
    if notice := loaded.first_clips.observe(assessment, version):
        assessment = replace(assessment, warnings=(*assessment.warnings, notice))
    return ScoreAnswer.of(
        assessment, bundle=loaded.bundle_id, target_version=version, target_state=state, request_id=request_id
    )
