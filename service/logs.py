"""The log: a JSON object a line for machines, or text for people, on standard error.

Every line that a request causes has its ``request_id``, and the facts that a line is about are fields of their own.
"""

import logging
import sys
from enum import StrEnum
from logging.handlers import WatchedFileHandler
from pathlib import Path

import structlog
from structlog.typing import Processor

from service import audit
from service.errors import ServiceError


class LogFormat(StrEnum):
    """How a line of the log is written."""

    JSON = "json"
    TEXT = "text"


def configure(level: str, log_format: LogFormat | None) -> None:
    """Write what is logged from ``level`` on; without a format as text to a terminal, else as JSON."""
    if log_format is None:
        log_format = LogFormat.TEXT if sys.stderr.isatty() else LogFormat.JSON
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(log_format))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def keep_audit(file: Path) -> None:
    """Add the audit log to ``file`` too, as JSON; one that is renamed is begun anew, as those who rotate logs expect.

    Raises
    ------
    ServiceError : where it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = _AuditFile(file, encoding="utf-8")
    except OSError as error:
        raise ServiceError(
            f"{file}: the audit log cannot be kept there ({error.strerror}). Make it writable, or choose another file "
            "with EARWITNESS_AUDIT."
        ) from error
    handler.setFormatter(formatter(LogFormat.JSON))
    audit.LOG.addHandler(handler)


class _AuditFile(WatchedFileHandler):
    """A file that may go away, or be closed to us, at any time: that is told on standard error as logging tells it.

    The standard library's own raises where the file cannot be opened again, into whoever logs: after the change that
    the line is about was made. The line itself is on standard error too.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, in a file that is there again too."""
        try:
            super().emit(record)
        except Exception:  # noqa: BLE001  as every other handler's
            self.handleError(record)


def formatter(log_format: LogFormat) -> logging.Formatter:
    """What turns the records of the standard library's loggers into lines."""
    facts: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    line: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if log_format is LogFormat.JSON:
        line += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    else:
        line += [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=facts, processors=line)
