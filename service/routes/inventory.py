"""``GET /sections`` and ``GET /bundle``: what can be scored, and what is loaded."""

from fastapi import APIRouter, Request

from models.vocabulary import Domain
from service.access import Scope
from service.adaptation import Target
from service.requests import deadline
from service.resources import Loaded
from service.routes.common import InLoaded, InResources, RequestId, needs, problems, query_of, question
from service.schemas.common import DeviceAnswer
from service.schemas.inventory import BundleAnswer, DomainAnswer, SectionAnswer, SectionsAnswer

router = APIRouter(
    tags=["inventory"], dependencies=[needs(Scope.SCORE, Scope.REGISTER, Scope.ADMIN), query_of(), question()]
)


@router.get(
    "/sections",
    operation_id="list_sections",
    summary="Every section that can be scored",
    response_model=SectionsAnswer,
    responses=problems(400, 429, 503, 504),
)
async def sections(request: Request, resources: InResources, loaded: InLoaded, request_id: RequestId) -> SectionsAnswer:
    """Every machine type and section, its domains, thresholds, calibration and target version."""
    due = deadline(request, resources.settings.request_timeout_s)
    async with resources.admission.until(due):
        answers = [_section(loaded, target) for target in await loaded.adaptation.sections(due)]
    return SectionsAnswer(sections=answers, bundle=loaded.bundle_id, request_id=request_id)


def _section(loaded: Loaded, target: Target) -> SectionAnswer:
    key = target.key
    domains = {Domain.SOURCE: DomainAnswer.of(loaded.detector.calibrations[key, Domain.SOURCE])}
    if target.model is not None:
        domains[Domain.TARGET] = DomainAnswer.of(target.model.calibration)
    manifest = loaded.detector.bundle.manifest
    return SectionAnswer(
        machine_type=key.machine_type,
        section=key.section,
        attributes=list(manifest.machine_types[key.machine_type].sections[key.section].attributes),
        domains=domains,
        target_version=target.version,
        target_state=target.state,
    )


@router.get(
    "/bundle",
    operation_id="get_bundle",
    summary="What is loaded",
    response_model=BundleAnswer,
    responses=problems(400, 429, 503),
)
async def bundle(resources: InResources, loaded: InLoaded, request_id: RequestId) -> BundleAnswer:
    """What is loaded, on which device it really runs, and since when.

    Training curves are left out: they are for reports, and long.
    """
    manifest = loaded.detector.bundle.manifest
    return BundleAnswer(
        bundle=loaded.bundle_id,
        name=manifest.name,
        path=str(loaded.folder),
        format_version=manifest.format_version,
        demonstration=manifest.demonstration,
        systems=list(manifest.systems),
        fusion=manifest.fusion,
        members=len(loaded.detector.bundle.embedders),
        machine_types=sorted(manifest.machine_types),
        device=DeviceAnswer.of(loaded.detector.device),
        threads=resources.settings.threads,
        loaded_at=loaded.loaded_at,
        recipe=manifest.recipe,
        training_data={name: value for name, value in manifest.training_data.items() if name != "curves"},
        versions=manifest.versions,
        metrics=manifest.metrics,
        request_id=request_id,
    )
