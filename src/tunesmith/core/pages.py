"""Pages for people: one style sheet (page.css), and one frame for reports (page.html.jinja), which they extend."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import jinja2

ENDINGS = (".jinja", ".css")


@cache
def environment(*packages: str) -> jinja2.Environment:
    """What renders the templates of rooms, such as `tunesmith.evaluate`, and the frame; it escapes everything."""
    sources = {
        file.name: file.read_text(encoding="utf-8")
        for room in ("tunesmith.core", *packages)
        for file in files(room).iterdir()
        if file.name.endswith(ENDINGS)
    }
    return jinja2.Environment(
        loader=jinja2.DictLoader(sources), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )


def render(package: str, template: str, **values: Any) -> str:
    """A self-contained HTML page.

    Args:
        package: the room that the template lies in.
        template: its file name.
        **values: what it shows; `title` and `lead` belong to the frame.
    """
    return environment(package).get_template(template).render(**values)
