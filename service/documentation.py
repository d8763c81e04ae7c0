"""``/docs``: Swagger UI over our OpenAPI document. Its files are served from here, for a plant has no internet."""

from importlib.resources import files
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse, Response

PAGE: Final = "/docs"
_POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'"
)
"""The page has its script and styles in itself, and takes what else it needs from here."""
_FOLDER = Path(str(files("fastapi_offline") / "static"))
_FILES = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")


def install(app: FastAPI) -> None:
    """Serve the page and its files; they are no part of the document that it shows."""
    script, style, icon = (f"{PAGE}/{name}" for name in _FILES)

    async def page(request: Request) -> Response:
        root = request.scope.get("root_path", "")
        answer = get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=app.title,
            swagger_js_url=f"{root}{script}",
            swagger_css_url=f"{root}{style}",
            swagger_favicon_url=f"{root}{icon}",
            swagger_ui_parameters={"validatorUrl": None},  # or it asks a public address whether we are valid
        )
        answer.headers["Content-Security-Policy"] = _POLICY
        return answer

    async def file(request: Request) -> Response:
        return FileResponse(_FOLDER / request.url.path.rpartition("/")[2])

    app.add_route(PAGE, page, include_in_schema=False)
    for name in _FILES:
        app.add_route(f"{PAGE}/{name}", file, include_in_schema=False)
