"""Templates and static files of the page."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from tunesmith.core.pages import environment

# Nothing from elsewhere is loaded or run; styles may stand in elements, where charts put them.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin", "Cache-Control": "no-store"}
KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "LICENSE": "text/plain"}


@cache
def content(name: str) -> bytes:
    """A static file's; `page.css` is the one that reports have too.

    Raises:
        OSError: there is none of this name.
    """
    folder = files("tunesmith.core") if name == "page.css" else files("tunesmith.web") / "static"
    return folder.joinpath(*name.split("/")).read_bytes()


def static(name: str) -> str:
    """The address of a static file, which changes with its content: browsers may keep it for ever."""
    return f"/static/{name}?{hashlib.sha256(content(name)).hexdigest()[:12]}"


def page(template: str, **values: Any) -> str:
    """A page, or a part of one."""
    made = environment("tunesmith.data.quality", "tunesmith.web.templates").get_template(template)
    return made.render(static=static, **values)
