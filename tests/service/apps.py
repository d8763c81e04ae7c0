"""A real app in the test's own process and event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from service.app import create_app
from service.settings import Settings
from tests.service.servers import PATIENCE_S


@asynccontextmanager
async def running_app(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, FastAPI]]:
    """An app that has loaded, or refused to, and a client of it."""
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
        asyncio.timeout(PATIENCE_S),
    ):
        while "still loading" in (await client.get("/readyz")).text:
            await asyncio.sleep(0.01)
        yield client, app
