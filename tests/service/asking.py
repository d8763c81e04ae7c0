"""Questions that tests ask a running service about target clips."""

from typing import Any

import httpx

from models.vocabulary import SectionKey
from tests.service.bundles import sound, wav
from tests.service.servers import Server


def target_clips(key: SectionKey, first: int, count: int = 3) -> list[bytes]:
    return [wav(sound(key, seed, target=True)) for seed in range(first, first + count)]


def register(
    server: Server, key: SectionKey, clips: list[bytes], idempotency_key: str | None = None, *, preview: bool = False
) -> httpx.Response:
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    return server.client.post(
        "/target-samples",
        data={"machine_type": key.machine_type, "section": key.section},
        files=[("audio", (f"{n}.wav", clip)) for n, clip in enumerate(clips)],
        headers=headers,
        params={"preview": "true"} if preview else {},
    )


def score(server: Server, key: SectionKey, audio: bytes) -> httpx.Response:
    fields = {"machine_type": key.machine_type, "section": key.section, "domain": "target"}
    return server.client.post("/score", data=fields, files={"audio": ("clip.wav", audio)})


def one(server: Server, key: SectionKey, method: str = "GET") -> dict[str, Any]:
    answer = server.client.request(method, f"/target-samples/{key.machine_type}/{key.section}")
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def metrics(server: Server) -> str:
    return server.client.get("/metrics").text
