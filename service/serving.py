"""The bundle in service and the way to another one, without a request that is dropped.

The new one is loaded, verified and warm before it takes over; the old one serves until the last of its requests is done
and is closed then. One that is refused changes nothing. What was promoted is on the disk before it takes over, so that
a restart serves it, whenever the process is killed.
"""

import asyncio
import logging
import os
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import BundleError, BundleNotFound, DeviceUnavailable, EarwitnessError, SigningKeyError
from models.manifest import FILE_NAME
from models.vocabulary import check_name
from service.adaptation import Target
from service.audit import Change, attempt_by, note, user_name
from service.errors import (
    BundleRefused,
    BundleWatched,
    NoPreviousBundle,
    PromotionError,
    ReloadInProgress,
    ServiceError,
    UnknownBundle,
)
from service.loading import LOADING_S, Loaded, load_bundle
from service.promotion import Promotion, PromotionFile
from service.registered import Registered
from service.settings import Settings
from service.telemetry import Metrics

LOOK_S = 1.0
"""How often a watched link is looked at."""
_MOST_PAUSE_S = 60.0
"""How long it is left alone at most after an error that may pass, or that nobody foresaw."""
_log = logging.getLogger("service")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A bundle that has taken over from another; ``dormant`` are the registrations that it cannot use."""

    loaded: Loaded
    name: str | None
    replaced: str
    dormant: tuple[Target, ...]


class Serving:
    """What serves now, and what follows it; used from the app's event loop alone."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._file = PromotionFile(settings.promotion_file, settings.bundle)
        self._promotion: Promotion | None = None
        self._registered: Registered | None = None
        self._changing = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self.current: Loaded | None = None

    async def start(self, registered: Registered) -> None:
        """Load what is to be served: the link that is watched, else what was promoted last, else the settings' bundle.

        Raises
        ------
        BundleError, DeviceUnavailable, StoreError, PromotionError, ServiceError : where that cannot be served.
        """
        settings = self._settings
        if settings.watch and not settings.bundle.is_symlink():
            raise ServiceError(
                f"{settings.bundle} is no symbolic link, and so there is nothing to watch. Make one that names the "
                "bundle's folder (ln -s), or leave --watch out."
            )
        if not settings.watch:
            self._promotion = await asyncio.to_thread(self._file.read)
        seen = _place(settings.bundle)
        self._registered = registered
        folder = self._folder(self._promotion)
        if folder != settings.bundle:
            _log.info(
                "%s was promoted last, by %s, and is served in place of %s", folder, self._file.path, settings.bundle
            )
        try:
            loaded = await load_bundle(settings, folder, registered, self._metrics)
        except BundleError as error:
            if folder == settings.bundle:
                raise
            raise PromotionError(
                f"{error} That bundle was promoted while the service ran: put one there that can serve, or remove "
                f"{self._file.path} to serve {settings.bundle}."
            ) from error
        self._metrics.know_queue(self._depth)
        self._metrics.know_bundle(loaded.detector)
        self.current = loaded
        if settings.watch:
            self._spawn(self._follow(seen))

    async def reload(self, name: str) -> Exchange:
        """Serve a bundle of the bundles' folder; it is loaded to the end whoever waits for it.

        Raises
        ------
        InvalidName : for a name that cannot be one.
        UnknownBundle : where there is none of this name.
        BundleRefused : where it cannot serve; what served before goes on.
        ReloadInProgress, BundleWatched : where nothing can be reloaded now.
        PromotionError, StoreError : where the promotion cannot be kept, or registrations cannot be read.
        """
        check_name("bundle", name)
        self._check_free()
        before = None if self._promotion is None else self._promotion.bundle
        return await self._promote(Promotion(name, previous=before))

    async def rollback(self) -> Exchange:
        """Serve the bundle again that was replaced last; raises `NoPreviousBundle`, and otherwise as `reload`."""
        self._check_free()
        if self._promotion is None:
            raise NoPreviousBundle(
                "No bundle was replaced since this service was first started with the one it has. Name the bundle with "
                "POST /bundle/reload."
            )
        return await self._promote(Promotion(self._promotion.previous, previous=self._promotion.bundle))

    async def close(self, grace_s: float) -> None:
        """Stop following, and close what serves."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.current is not None:
            await self.current.detection.close(grace_s)

    def _check_free(self) -> None:
        if self._settings.watch:
            raise BundleWatched(
                f"The service follows the link {self._settings.bundle}. Let it name another bundle (ln -sfn), or start "
                "the service without --watch."
            )
        if self._changing:
            raise ReloadInProgress("Another bundle is being loaded. Ask GET /bundle for what serves when it is done.")

    async def _promote(self, promotion: Promotion) -> Exchange:
        self._changing = True
        return await asyncio.shield(self._spawn(self._exchange(self._folder(promotion), promotion)))

    async def _exchange(self, folder: Path, promotion: Promotion | None) -> Exchange:
        """Put the bundle in ``folder`` in place of the current one, or change nothing."""
        try:
            with Change() as audited:
                note(folder=folder)
                exchange = await self._exchanged(folder, promotion)
                audited.made(bundle_id=exchange.loaded.bundle_id, replaced=exchange.replaced)
        except Exception as error:
            _log.error("%s was not put in service: %s", folder, error)
            self._metrics.observe_reload("refused")
            raise
        finally:
            self._changing = False
        self._metrics.observe_reload("promoted")
        _log.info("bundle %s from %s serves in place of %s", exchange.loaded.bundle_id, folder, exchange.replaced)
        return exchange

    async def _exchanged(self, folder: Path, promotion: Promotion | None) -> Exchange:
        old, registered = self.current, self._registered
        assert old is not None
        assert registered is not None
        try:
            new = await load_bundle(self._settings, folder, registered, self._metrics)
        except BundleNotFound as error:
            known = await asyncio.to_thread(_bundles, self._settings.bundles_dir)
            raise UnknownBundle(f"Bundle {old.bundle_id} goes on serving: {error}", known) from error
        except (BundleError, DeviceUnavailable, SigningKeyError) as error:
            raise BundleRefused(f"Bundle {old.bundle_id} goes on serving: {error}") from error
        except EarwitnessError:
            raise
        except Exception as error:
            _log.exception("%s could not be loaded", folder)
            raise BundleRefused(
                f"Bundle {old.bundle_id} goes on serving: {folder} could not be loaded, for a reason that nobody "
                f"foresaw ({error!r}). The log tells more."
            ) from error
        try:
            targets = await new.adaptation.targets(asyncio.get_running_loop().time() + LOADING_S)
            if promotion is not None:
                await asyncio.to_thread(self._file.write, promotion)
        except BaseException:
            await new.detection.close(0.0)
            raise
        self._promotion, self.current = promotion, new
        self._metrics.know_bundle(new.detector)
        self._spawn(self._retire(old))
        dormant = tuple(target for target in targets if target.model is None)
        return Exchange(new, None if promotion is None else promotion.bundle, old.bundle_id, dormant)

    async def _retire(self, old: Loaded) -> None:
        await old.holders.gone()
        await old.detection.close(self._settings.drain_s)
        kept = () if self.current is None else self.current.detector.sections
        self._metrics.forget(set(old.detector.sections) - set(kept))
        _log.info("bundle %s has answered the last of its requests", old.bundle_id)

    async def _follow(self, seen: object) -> None:
        """Serve what the watched link names, whenever it names something else than ``seen``."""
        link, pause_s = self._settings.bundle, LOOK_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                place = await asyncio.to_thread(_place, link)
                if place != seen:
                    owner = await asyncio.to_thread(_owner, link)
                    # the next one may be better
                    with suppress(BundleRefused, UnknownBundle), attempt_by("serve --watch", owner):
                        await self._exchange(link, None)
                    seen = place
                pause_s = LOOK_S
            except EarwitnessError:  # it is in the log, and may pass (a database that is away); a load costs seconds
                pause_s = min(2.0 * pause_s, _MOST_PAUSE_S)
            except Exception:  # noqa: BLE001  it is in the log, and the next bundle may be better
                pause_s = min(2.0 * pause_s, _MOST_PAUSE_S)
                _log.exception("%s could not be followed; it is looked at again in %g s", link, pause_s)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _depth(self) -> int:
        return 0 if self.current is None else self.current.detection.batcher.depth

    def _folder(self, promotion: Promotion | None) -> Path:
        if promotion is None or promotion.bundle is None:
            return self._settings.bundle
        return self._settings.bundles_dir / promotion.bundle


def _place(link: Path) -> tuple[str, int] | None:
    """What tells one bundle behind a link from another; None where there is nothing."""
    try:
        return os.path.realpath(link), link.stat().st_ino
    except OSError:
        return None


def _owner(link: Path) -> str | None:
    """Who has made the link; None where it is gone."""
    try:
        return user_name(link.lstat().st_uid)
    except OSError:
        return None


def _bundles(folder: Path) -> list[str]:
    """The names of the bundles that a folder holds."""
    return sorted(path.parent.name for path in folder.glob(f"*/{FILE_NAME}"))
