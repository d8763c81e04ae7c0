"""OpenTelemetry: a span a request, with one for each stage of a score, sent by OTLP over HTTP.

Neither the SDK nor the exporter is imported, and nothing costs anything, where no endpoint is configured. Who watches
the service (health and metrics) is never traced.
"""

import threading
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

WATCHING = frozenset({"/livez", "/readyz", "/metrics"})
"""Asked for every few seconds by whoever watches."""

_LAST_SPANS_S = 2.0
"""How long the last spans may take to be sent: a part of `service.ending.AFTER_DRAIN_S`."""

_tracer: "ContextVar[Tracer | None]" = ContextVar("tracer", default=None)
"""Of the request at hand, where it is traced."""


class Tracing:
    """Where spans go; raises `ServiceError` where the packages are missing."""

    def __init__(self, endpoint: str, version: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise ServiceError(
                f"Traces cannot be sent to {endpoint}: {error.name} is not installed. Install the extra 'tracing', or "
                "leave EARWITNESS_TRACES_ENDPOINT out."
            ) from error
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "earwitness", "service.version": version}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self.tracer = self._provider.get_tracer("earwitness")

    def close(self) -> None:
        """Send what has not been sent, unless it takes long: a collector that is away keeps nobody waiting."""
        sending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        sending.start()
        sending.join(_LAST_SPANS_S)


class TracedRequests:
    """ASGI middleware: a span for each request, the child of the caller's where it sends ``traceparent``."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracer = tracing.tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, format_trace_id
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        if scope["type"] != "http" or scope["path"] in WATCHING:
            await self._app(scope, receive, send)
            return
        caller = TraceContextTextMapPropagator().extract(dict(Headers(scope=scope)))
        with self._tracer.start_as_current_span(scope["method"], context=caller, kind=SpanKind.SERVER) as span:
            structlog.contextvars.bind_contextvars(trace_id=format_trace_id(span.get_span_context().trace_id))
            _tracer.set(self._tracer)

            async def answer(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                await send(message)

            try:
                await self._app(scope, receive, answer)
            finally:
                route = getattr(scope.get("route"), "path", None)
                if route is not None:
                    span.update_name(f"{scope['method']} {route}")
                    span.set_attribute("http.route", route)
                span.set_attribute("http.request.method", scope["method"])
                span.set_attribute("earwitness.request_id", scope["state"]["request_id"])


def stage(name: str) -> AbstractContextManager[object]:
    """A span for a part of the request at hand; nothing where it is not traced."""
    tracer = _tracer.get()
    return nullcontext() if tracer is None else tracer.start_as_current_span(name)
