"""What is looked at again and again goes on being looked at, whatever happens; and who writes, writes alone."""

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from models.vocabulary import SectionKey
from service.errors import StoreError
from service.registered import Registered, TargetState
from service.serving import Serving
from service.settings import Settings
from service.targets import Registration, Sample, State, TargetStore
from service.telemetry import Metrics
from tests.service.bundles import FAN_0, FAN_1, PUMP
from tests.service.servers import PATIENCE_S

CLIPS = [(Sample("0" * 64, 10.0, -30.0, 0.0), b"clip")]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


def test_registrations_are_asked_for_again_after_what_nobody_foresaw(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are stale meanwhile, and the log says why; so does one that could not be made ready."""
    told: list[int] = []

    async def changed() -> None:
        told.append(len(told))
        if len(told) == 1:
            raise ZeroDivisionError("nobody foresaw this")

    async def scenario() -> None:
        url, file = f"sqlite:///{tmp_path / 'db'}", tmp_path / "db"
        with TargetStore(url) as store, closing(sqlite3.connect(file)) as other:
            registered = await Registered(store).open()
            following = asyncio.create_task(registered.follow(changed))
            store.register(FAN_0, CLIPS)
            await until(lambda: told == [0])
            at = other.execute("SELECT registered_at FROM registrations").fetchone()[0]
            other.execute("UPDATE registrations SET registered_at = 'soon'")
            other.execute("UPDATE changes SET number = number + 1")
            other.commit()
            await until(lambda: registered.state is TargetState.STALE)
            assert registered.in_force(FAN_0) is not None
            other.execute("UPDATE registrations SET registered_at = ?", [at])
            other.commit()
            await until(lambda: registered.state is TargetState.CURRENT)
            store.register(FAN_1, CLIPS)
            await until(lambda: registered.in_force(FAN_1) and len(told) > 1)
            following.cancel()
            registered.close()

    asyncio.run(scenario())
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR and record.exc_info]
    assert any("could not be read; they are asked for again in" in message for message in messages)
    assert any("could not be made ready" in message for message in messages)


def watch(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    look: Callable[[Path], Any],
    exchange: Callable[[Serving, Path, None], Coroutine[Any, Any, None]],
    enough: Callable[[], object],
) -> None:
    """Follow a link, which ``look`` reads and ``exchange`` serves, until it is ``enough``; it is so still then."""
    monkeypatch.setattr("service.serving.LOOK_S", 0.01)
    monkeypatch.setattr("service.serving._place", look)
    monkeypatch.setattr(Serving, "_exchange", exchange)

    async def scenario() -> None:
        serving = Serving(Settings(bundle=tmp_path / "link", database=str(tmp_path / "db"), watch=True), Metrics())
        following = asyncio.create_task(serving._follow(None))
        await until(enough)
        assert not following.done()
        following.cancel()

    asyncio.run(scenario())


def test_a_watched_link_is_looked_at_again_after_what_nobody_foresaw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And what it names then is served."""
    looks = iter([OSError("a disk"), ZeroDivisionError("anything"), ("somewhere", 1)])
    served: list[Path] = []

    def look(_link: Path) -> Any:
        found = next(looks, ("somewhere", 1))
        if isinstance(found, Exception):
            raise found
        return found

    async def exchange(_serving: Serving, folder: Path, _promotion: None) -> None:
        served.append(folder)

    watch(tmp_path, monkeypatch, look, exchange, lambda: served)
    assert served == [tmp_path / "link"]
    assert caplog.text.count("could not be followed; it is looked at again in") == 2


def test_a_watched_bundle_is_not_loaded_all_the_time_while_the_database_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice as long is waited each time, until it could be served; once is enough then."""
    tried: list[float] = []
    looked: list[float] = []
    away = 5

    def look(_link: Path) -> Any:
        looked.append(time.monotonic())
        return "somewhere", 1

    async def exchange(_serving: Serving, _folder: Path, _promotion: None) -> None:
        tried.append(time.monotonic())
        if len(tried) <= away:
            raise StoreError("It is away.")

    watch(tmp_path, monkeypatch, look, exchange, lambda: len(looked) > away + 3)
    waited = [later - earlier for earlier, later in pairwise(tried)]
    assert len(waited) == away
    assert all(seconds >= 0.01 * 2**number for number, seconds in enumerate(waited, start=1)), waited


class Slow(TargetStore):
    """A store that registers when it may, and tells who was at it at the same time."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.may = threading.Event()
        self.entered = threading.Event()
        self.at_once = 0
        self.most_at_once = 0

    def register(self, key: SectionKey, *arguments: Any, **options: Any) -> tuple[Registration, State]:
        """Wait, and register."""
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.entered.set()
        assert self.may.wait(PATIENCE_S)
        self.at_once -= 1
        return super().register(key, *arguments, **options)


def test_who_leaves_while_it_is_written_lets_nobody_else_write(tmp_path: Path) -> None:
    """The next one's turn comes when the thread is done; who leaves before its own turn has written nothing."""

    async def scenario() -> None:
        with Slow(f"sqlite:///{tmp_path / 'db'}") as store:
            registered = await Registered(store).open()
            leaver, gone, next_one = (
                asyncio.create_task(registered.register(key, CLIPS, idempotency=None)) for key in (FAN_0, FAN_1, PUMP)
            )
            await asyncio.to_thread(store.entered.wait, PATIENCE_S)
            leaver.cancel()
            gone.cancel()
            await asyncio.sleep(0.1)
            assert not next_one.done()
            store.may.set()
            assert (await next_one).key == PUMP
            assert store.most_at_once == 1
            await registered.refresh()
            assert [one.key for one in registered.all] == [FAN_0, PUMP]
            registered.close()

    asyncio.run(scenario())
