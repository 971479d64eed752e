"""What a chat template shows of a conversation: a turn, a call, tools or thoughts that it leaves out teach nothing.

Templates are foreign code, so nothing is read from them: they are asked, and what comes out is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tunesmith.core.errors import ModelError
from tunesmith.prompt.templates import MARKS, WITH_TOOLS

Turns = list[dict[str, Any]]
Render = Callable[[Turns, bool, list[Any] | None], str]  # turns, whether an answer is asked for, tools
UNSEEN = chr(0x10FFFD)  # stands before an answer whose begin is looked for; no content holds it
WORD = "unseenbefore"


def prompt_of(render: Render, said: Turns, turn: int, tools: list[Any] | None) -> str:
    """The prompt for a turn. Of a greeting, which some templates cannot ask for, what they write before it.

    Raises:
        ModelError: the template refuses it.
    """
    try:
        return render(said[:turn], True, tools)
    except ModelError:
        if any(one["role"] == "user" for one in said[:turn]) or not said[turn]["content"]:
            raise
        marked = {**said[turn], "content": UNSEEN + said[turn]["content"]}
        return render([*said[:turn], marked], False, tools).partition(UNSEEN)[0]


def refuse_left_out(render: Render, said: Turns, whole: str, tools: list[Any] | None) -> None:
    """Refuse a conversation of which the template shows a part only.

    Args:
        render: the template.
        said: the turns.
        whole: what the template makes of them.
        tools: what they may call.

    Raises:
        ModelError: a system's or a user's turn or an assistant's call is not there.
    """
    for i, turn in enumerate(said):
        for call in turn.get("tool_calls", ()):
            if call["function"]["name"] not in whole:
                raise unshown_call(call["function"]["name"])
        if turn["role"] not in ("system", "user") or turn["content"].strip() in whole:
            continue
        silent = [*said[:i], {**turn, "content": ""}, *said[i + 1 :]]
        if _rendered(render, silent, tools) == whole:  # else it was only rewritten
            raise ModelError(
                f"the chat template leaves out turn {i + 1} ({turn['role']}). Put system turns first, join neighbours "
                "of one role with data.clean=[turns], or use a model whose template shows it."
            )


def unshown_call(name: str) -> ModelError:
    """The error of a call that the template does not show, with the templates that would."""
    marks = " and ".join(MARKS[WITH_TOOLS[0]])
    return ModelError(
        f"the chat template does not show that the assistant calls {name!r}. Use a model whose own template shows "
        f"tool calls (such as Qwen's, or Llama's from 3.1 on), or model.template={WITH_TOOLS[0]} where the tokenizer "
        f"knows {marks}; or leave out rows with calls."
    )


def shown_parts(render: Render) -> dict[str, bool]:
    """Whether a template shows the `tools` that may be called, and the `reasoning` before an answer."""
    tool = {"type": "function", "function": {"name": WORD, "description": WORD, "parameters": {"type": "object"}}}
    asked, answered = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
    thinking = {**answered, "reasoning_content": WORD, "thinking": WORD}
    found = {
        "tools": _rendered(render, [asked, answered], [tool]),
        "reasoning": _rendered(render, [asked, thinking], None),
    }
    return {part: text is None or WORD in text for part, text in found.items()}


def _rendered(render: Render, said: Turns, tools: list[Any] | None) -> str | None:
    try:
        return render(said, False, tools)
    except ModelError:
        return None
