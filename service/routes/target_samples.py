"""``/target-samples``: three to fifty clips of a changed condition adapt a section at once, durably."""

from typing import Any

from fastapi import APIRouter, Request, Response, status

from models.detector import MAX_TARGET_CLIPS, MIN_TARGET_CLIPS
from models.errors import UnknownMachineType, UnknownSection
from models.vocabulary import NAME_PATTERN, Domain, SectionKey
from service.access import Scope
from service.adaptation import Target
from service.audit import note
from service.requests import (
    JSON,
    KEY_PATTERN,
    MULTIPART,
    content_type,
    deadline,
    idempotency_key,
    many_files,
    parameters,
    read_form,
    read_json,
    unsupported,
    while_connected,
)
from service.resources import Loaded
from service.routes.common import InLoaded, InPath, InResources, RequestId, needs, problems, query_of, question
from service.schemas.target_samples import (
    PreviewParameters,
    RegistrationParameters,
    RestoreBody,
    TargetSamples,
    TargetSamplesAnswer,
    TargetSamplesListing,
    TargetVersion,
    TargetVersionsAnswer,
)

router = APIRouter(prefix="/target-samples", tags=["target samples"], dependencies=[needs(Scope.REGISTER)])

_IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": f"^{KEY_PATTERN}$"},
    "description": "Makes a repeated request one registration, for a day unless the service is set otherwise; another "
    "request under the same key is refused.",
}
_OPENAPI: dict[str, Any] = {
    "parameters": [
        _IDEMPOTENCY_KEY,
        {
            "name": "preview",
            "in": "query",
            "required": False,
            "schema": {"type": "boolean", "default": False},
            "description": "Registers nothing, and says with 200 what a registration of these clips would be.",
        },
    ],
    "requestBody": {
        "required": True,
        "content": {
            MULTIPART: {
                "schema": {
                    "type": "object",
                    "required": ["audio", "machine_type", "section"],
                    "properties": {
                        "audio": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "minItems": MIN_TARGET_CLIPS,
                            "maxItems": MAX_TARGET_CLIPS,
                        },
                        "machine_type": {"type": "string", "pattern": NAME_PATTERN, "examples": ["fan"]},
                        "section": {"type": "string", "pattern": NAME_PATTERN, "examples": ["00"]},
                    },
                    "additionalProperties": False,
                }
            }
        },
    },
}


@router.post(
    "",
    operation_id="register_target_samples",
    summary="Register target clips",
    response_model=TargetSamplesAnswer,
    status_code=status.HTTP_201_CREATED,
    responses={
        200: {"model": TargetSamplesAnswer, "description": "A preview; nothing was registered."},
        **problems(400, 404, 409, 413, 415, 422, 429, 503, 504),
    },
    openapi_extra=_OPENAPI,
)
async def register(
    request: Request, response: Response, resources: InResources, loaded: InLoaded, request_id: RequestId
) -> TargetSamplesAnswer:
    """Replace a section's target clips; the first ten seconds of each are used. All of them are taken, or none.

    Where no answer came, or 504, the registration may have been made: repeat it with the same Idempotency-Key.
    """
    settings = resources.settings
    due, replay_key = deadline(request, settings.request_timeout_s), idempotency_key(request)
    preview = parameters(PreviewParameters, request.query_params.multi_items()).preview
    if content_type(request) != MULTIPART:
        raise unsupported(request, [MULTIPART])
    with resources.admission.place() as hold:
        async with resources.admission.until(due):
            loaded.detection.forecast.check(due)  # before the clips are sent
            form = await read_form(request, settings.max_registration_bytes, hold)
            clips = many_files(form)
            wanted = parameters(RegistrationParameters, form.texts)
            note(machine_type=wanted.machine_type, section=wanted.section)
            key = loaded.find(wanted.machine_type, wanted.section)
            if preview:
                note(preview=True)
                work = loaded.adaptation.preview(key, clips, due)
                response.status_code = status.HTTP_200_OK
            else:
                work = loaded.adaptation.register(key, clips, idempotency_key=replay_key, deadline=due)
            target = await while_connected(request, work)
            return _answer(target, loaded, request_id)


@router.get(
    "",
    operation_id="list_target_samples",
    summary="List registrations",
    response_model=TargetSamplesListing,
    dependencies=[query_of(), question()],
    responses=problems(400, 429, 503, 504),
)
async def listing(
    request: Request, resources: InResources, loaded: InLoaded, request_id: RequestId
) -> TargetSamplesListing:
    """Every registration in force; those whose section the loaded bundle lacks are listed as dormant."""
    due = deadline(request, resources.settings.request_timeout_s)
    async with resources.admission.until(due):
        entries = [TargetSamples.of(target) for target in await loaded.adaptation.targets(due)]
    return TargetSamplesListing(target_samples=entries, bundle=loaded.bundle_id, request_id=request_id)


@router.get(
    "/{machine_type}/{section}",
    operation_id="get_target_samples",
    summary="A section's target clips",
    response_model=TargetSamplesAnswer,
    dependencies=[query_of(), question()],
    responses=problems(400, 404, 429, 503, 504),
)
async def one(
    *,
    request: Request,
    machine_type: InPath,
    section: InPath,
    resources: InResources,
    loaded: InLoaded,
    request_id: RequestId,
) -> TargetSamplesAnswer:
    """The target clips in force for one section: a registration, the bundle's own (version 0) or none (null)."""
    due = deadline(request, resources.settings.request_timeout_s)
    async with resources.admission.until(due):
        key = _known(loaded, machine_type, section)
        return _answer(await loaded.adaptation.target(key, due), loaded, request_id)


@router.delete(
    "/{machine_type}/{section}",
    operation_id="delete_target_samples",
    summary="Withdraw a registration",
    response_model=TargetSamplesAnswer,
    dependencies=[query_of(), question()],
    responses=problems(400, 404, 429, 503, 504),
)
async def withdraw(
    *,
    request: Request,
    machine_type: InPath,
    section: InPath,
    resources: InResources,
    loaded: InLoaded,
    request_id: RequestId,
) -> TargetSamplesAnswer:
    """Take a registration out of force; the answer says what is in force then: version 0, or null for none."""
    due = deadline(request, resources.settings.request_timeout_s)
    async with resources.admission.until(due):
        key = _known(loaded, machine_type, section)
        target = await loaded.adaptation.withdraw(key, due)
        return _answer(target, loaded, request_id)


@router.get(
    "/{machine_type}/{section}/versions",
    operation_id="list_target_samples_versions",
    summary="A section's registrations, past ones too",
    response_model=TargetVersionsAnswer,
    dependencies=[query_of(), question()],
    responses=problems(400, 404, 429, 503, 504),
)
async def versions(
    *,
    request: Request,
    machine_type: InPath,
    section: InPath,
    resources: InResources,
    loaded: InLoaded,
    request_id: RequestId,
) -> TargetVersionsAnswer:
    """Every registration of the section that is kept, the newest first; any of them can be restored.

    Clips in force are appraised, as when they were registered. Of others the stored facts are told, and no warnings.
    """
    due = deadline(request, resources.settings.request_timeout_s)
    async with resources.admission.until(due):
        key = _known(loaded, machine_type, section)
        found = [TargetVersion.of(*one) for one in await loaded.adaptation.versions(key, due)]
    return TargetVersionsAnswer(
        machine_type=key.machine_type,
        section=key.section,
        domain=Domain.TARGET,
        versions=found,
        bundle=loaded.bundle_id,
        request_id=request_id,
    )


@router.post(
    "/{machine_type}/{section}/restore",
    operation_id="restore_target_samples",
    summary="Restore an earlier registration",
    response_model=TargetSamplesAnswer,
    status_code=status.HTTP_201_CREATED,
    dependencies=[query_of()],
    responses=problems(400, 404, 409, 413, 415, 429, 503, 504),
    openapi_extra={
        "parameters": [_IDEMPOTENCY_KEY],
        "requestBody": {"required": True, "content": {JSON: {"schema": RestoreBody.model_json_schema()}}},
    },
)
async def restore(
    *,
    request: Request,
    machine_type: InPath,
    section: InPath,
    resources: InResources,
    loaded: InLoaded,
    request_id: RequestId,
) -> TargetSamplesAnswer:
    """Put the clips of an earlier version in force again; they become the section's next version."""
    due, replay_key = deadline(request, resources.settings.request_timeout_s), idempotency_key(request)
    key = loaded.find(machine_type, section)
    with resources.admission.place() as hold:
        async with resources.admission.until(due):
            version = (await read_json(request, RestoreBody, hold)).version
            note(restored_from=version)
            work = loaded.adaptation.restore(key, version, idempotency_key=replay_key, deadline=due)
            target = await while_connected(request, work)
            return _answer(target, loaded, request_id)


def _known(loaded: Loaded, machine_type: str, section: str) -> SectionKey:
    """The key of a section; one that only a dormant registration knows is known too."""
    try:
        return loaded.find(machine_type, section)
    except (UnknownMachineType, UnknownSection):
        key = SectionKey(machine_type, section)
        if not loaded.adaptation.knows(key):
            raise
        return key


def _answer(target: Target, loaded: Loaded, request_id: str) -> TargetSamplesAnswer:
    return TargetSamplesAnswer(**TargetSamples.facts(target), bundle=loaded.bundle_id, request_id=request_id)
