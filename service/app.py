"""The HTTP application: routes, errors, middleware and the lifespan in which its resources live."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from service import documentation, problems
from service.middleware import UNKNOWN_ROUTE, RequestContext
from service.origins import NamedHost
from service.resources import Resources
from service.routes import bundles, health, inventory, scoring, target_samples
from service.schemas.common import Problem
from service.settings import Settings
from service.tracing import TracedRequests

_DESCRIPTION = """Listens to machines and says when one sounds wrong.

Send a clip with its machine type, section and domain to `POST /score`. After a change of condition, register three to
fifty normal clips with `POST /target-samples` and score with domain `target`. Errors are RFC 9457 problems; their
`type` is stable, their `detail` names the value and the remedy."""


class _App(FastAPI):
    """FastAPI, with our problems in its OpenAPI document in place of its own validation errors."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        document = super().openapi()
        schemas = document["components"]["schemas"]
        if "Problem" not in schemas:
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{}, {"key": []}]
            schemas["Problem"] = Problem.model_json_schema()
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            for path in document["paths"].values():
                for operation in path.values():
                    if "HTTPValidationError" in str(operation["responses"].get("422")):
                        del operation["responses"]["422"]
        return document


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application over ``settings`` (those of the environment by default); it loads when its lifespan begins."""
    resources = Resources(settings or Settings())

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with resources.open():
            yield

    app = _App(
        title="Earwitness",
        version=version("earwitness"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.resources = resources
    problems.install(app)
    _name_hosts(app, resources.settings)
    if resources.tracing is not None:
        app.add_middleware(TracedRequests, tracing=resources.tracing)
    app.add_middleware(RequestContext, metrics=resources.metrics)
    documentation.install(app)
    for module in (scoring, target_samples, inventory, bundles, health):
        app.include_router(module.router)
    if resources.settings.metrics_port is None:
        app.include_router(health.watched)
    resources.metrics.know_routes([*app.openapi()["paths"], "/metrics", UNKNOWN_ROUTE])
    return app


def metrics_app(resources: Resources) -> FastAPI:
    """The application of the metrics' own port."""
    app = FastAPI(redirect_slashes=False, openapi_url=None)
    app.state.resources = resources
    problems.install(app)
    _name_hosts(app, resources.settings)
    app.add_middleware(RequestContext, metrics=resources.metrics)
    app.include_router(health.watched)
    return app


def _name_hosts(app: FastAPI, settings: Settings) -> None:
    if not settings.keys_required:
        app.add_middleware(NamedHost, hosts=settings.known_hosts)
