"""Pages for people: one frame and one style sheet (page.html.jinja), which every page of a room extends."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import jinja2


def render(package: str, template: str, **values: Any) -> str:
    """A self-contained HTML page.

    Args:
        package: the room that the template lies in, such as `tunesmith.evaluate`.
        template: its file name.
        **values: what it shows; `title` and `lead` belong to the frame.
    """
    sources = {
        file.name: file.read_text(encoding="utf-8")
        for room in ("tunesmith.core", package)
        for file in files(room).iterdir()
        if file.name.endswith(".jinja")
    }
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(sources), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**values)
