"""A chat template, compiled in a sandbox and rendered within bounds: what transformers' apply_chat_template renders."""

from __future__ import annotations

import json
from typing import Any

ROOM = 1_000_000  # characters that a template may write whatever it was given
TIMES = 20  # as many as it was given: more than that is no prompt


class WritesTooMuch(Exception):  # noqa: N818  it is a finding about a template
    """A template writes far more than it was given."""


def compile_template(text: str) -> Any:
    """The template in transformers' sandbox.

    Raises:
        Exception: of any kind, if it is no template.
    """
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return _compile_jinja_template(text)


def render(template: Any, values: dict[str, Any], room: int = ROOM) -> str:
    """What the template writes: what `template.render` gives, without its copies of the sandbox's functions each time.

    Args:
        template: compiled.
        values: all that it may use, `messages` and `tools` among them.
        room: characters that it may write, or `TIMES` as many as it was given.

    Raises:
        WritesTooMuch: it writes more, and was left at that.
        Exception: of any kind, from the template.
    """
    sandbox = template.environment
    context = sandbox.context_class(sandbox, values, template.name, template.blocks)
    pieces: list[str] = []
    length, most = 0, room
    for piece in template.root_render_func(context):
        pieces.append(piece)
        length += len(piece)
        if length > most:
            most = max(room, TIMES * len(json.dumps([values["messages"], values["tools"]], default=str)))
            if length > most:
                raise WritesTooMuch(f"it writes more than {most:,} characters")
    return "".join(pieces)
