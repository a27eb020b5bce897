"""Logs as lines of JSON. They say who asked what and how it went; features, replies and tokens never enter them."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

__all__ = ["LOGGER", "JsonLines", "configure", "error_fields", "log"]

LOGGER = logging.getLogger("splitveil.cloud")

_FIELDS = "splitveil_fields"
_FRAMES = 5


def log(level: int, event: str, **fields: Any) -> None:
    """One event with its facts."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, event, extra={_FIELDS: fields})


def error_fields(error: BaseException) -> dict[str, Any]:
    """The type of an error and where it came from; not its text, which may quote what a client sent.

    Example:
        >>> error_fields(ValueError("0.123"))
        {'error': 'ValueError', 'at': []}
    """
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    return {"error": type(error).__name__, "at": [f"{frame.name}:{frame.lineno}" for frame in frames]}


class JsonLines(logging.Formatter):
    """Time, level, event, and the fields of `log`.

    Example:
        >>> record = logging.LogRecord("x", logging.INFO, "x.py", 1, "draining", (), None)
        >>> json.loads(JsonLines().format(record))["event"]
        'draining'
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line.update(error_fields(record.exc_info[1]))
        return json.dumps(line, separators=(",", ":"), default=str)


def configure(level: str) -> None:
    """Send our events and those of the HTTP server to stderr; for processes that serve and do nothing else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, least in ((LOGGER.name, level.upper()), ("uvicorn", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(least)
