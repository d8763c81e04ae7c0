"""Which bundle was promoted while the service ran, kept in a file: a restart serves what was promoted last.

The file names bundles of `Settings.bundles_dir`, and the bundle of the settings by null. It belongs to that bundle: a
service that is started with another one serves the other one.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from models.folders import replace_file
from service.errors import PromotionError

_log = logging.getLogger("service.promotion")


@dataclass(frozen=True, slots=True)
class Promotion:
    """``bundle`` serves and ``previous`` is what a rollback goes back to; None is the bundle of the settings."""

    bundle: str | None
    previous: str | None


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    configured: str
    bundle: str | None
    previous: str | None


class PromotionFile:
    """The file, read and written by one process; ``configured`` is the bundle of its settings."""

    def __init__(self, file: Path, configured: Path) -> None:
        self.path = file
        self._configured = str(configured.absolute())

    def read(self) -> Promotion | None:
        """What was promoted in place of the settings' bundle, if anything was.

        Raises
        ------
        PromotionError : where the file cannot be read, or is none of ours.
        """
        try:
            kept = _Kept.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise PromotionError(
                f"{self.path}: the promoted bundle cannot be read there ({_reason(error)}). Make the file readable, "
                "or remove it to serve the bundle of the settings."
            ) from error
        if kept.configured != self._configured:
            _log.warning(
                "%s is about %s, and is not followed: this service was started with %s",
                *(self.path, kept.configured, self._configured),
            )
            return None
        return Promotion(kept.bundle, kept.previous)

    def write(self, promotion: Promotion) -> None:
        """Keep ``promotion``: once this returns, a restart serves it.

        Raises
        ------
        PromotionError : where the disk refuses.
        """
        kept = _Kept(configured=self._configured, bundle=promotion.bundle, previous=promotion.previous)
        try:
            replace_file(self.path, kept.model_dump_json().encode())
        except OSError as error:
            raise PromotionError(
                f"{self.path}: the promotion cannot be kept there ({_reason(error)}), and so the bundle was not "
                "changed. Make the folder writable, with space on its disk, or choose another file with "
                "EARWITNESS_PROMOTION."
            ) from error


def _reason(error: OSError | ValidationError) -> object:
    return error.strerror if isinstance(error, OSError) else error.errors(include_url=False)[0]["msg"]
