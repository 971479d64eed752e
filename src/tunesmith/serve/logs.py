"""Where the server's log goes: stderr, one line a request, as text or as JSON. No contents."""

from __future__ import annotations

import json
import logging
import time


class Text(logging.Formatter):
    """Lines for people; those of requests come as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        if not record.name.endswith(".access"):
            return f"{clock} {record.levelname.lower()}: {super().format(record)}"
        line = json.loads(record.getMessage())
        return (
            f"{clock} {line['status']} {line['method']} {line['path']}  {line['ms']:,.0f} ms  "
            f"{line['key'] or 'no key'}  {line['request']}"
        )


class Lines(logging.Formatter):
    """JSON for machines; what is no request becomes some."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        if record.name.endswith(".access"):
            return record.getMessage()
        told = {"time": round(record.created, 3), "level": record.levelname.lower(), "message": super().format(record)}
        return json.dumps(told)


def write_log(how: str) -> None:
    """Let the server's log go to stderr.

    Args:
        how: `text`, `json`, or `none` for warnings alone.
    """
    log, handler = logging.getLogger("tunesmith.serve"), logging.StreamHandler()
    handler.setFormatter(Lines() if how == "json" else Text())
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.WARNING if how == "none" else logging.INFO)
