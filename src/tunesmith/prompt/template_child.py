"""The child process in which `template_check` tries a chat template: `python -m tunesmith.prompt.template_child`.

It reads the template, the tokens that it may name and its seconds as JSON from standard input, lets the system bound
its time and memory, renders a few conversations, and writes as JSON what it found.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.prompt.messages import Conversation, Message, ToolCall, plain
from tunesmith.prompt.render import TIMES, WritesTooMuch, compile_template, render

MEGABYTES = 128  # beyond what the process has when it begins
ROOM = 200_000  # characters that it may write
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a town.",
            "parameters": {
                "type": "object",
                "properties": {"town": {"type": "string", "description": "Its name."}, "days": {"type": "integer"}},
                "required": ["town"],
            },
        },
    }
]


def conversations() -> Iterator[tuple[Conversation, list[Any] | None]]:
    """What any template is likely to meet: one question, a system turn, many turns, long ones, tools."""
    system, question = Message("system", "Be kind."), Message("user", "What time is breakfast?")
    answer = Message("assistant", "From seven to ten.", reasoning="They want to eat.")
    yield (question,), None
    yield (question, answer), None
    yield (system, question, answer, Message("user", "Thanks, and \u00fcber die Stra\u00dfe?")), None
    yield (question, answer) * 32, None
    yield (Message("user", "word " * 4000), Message("assistant", "word " * 4000)), None
    call = Message("assistant", "", tool_calls=(ToolCall("weather", {"town": "Ulm", "days": 2}, "call00001"),))
    result = Message("tool", '{"rain": false}', tool_call_id="call00001", name="weather")
    yield (system, question), TOOLS
    yield (question, call, result, answer), TOOLS


def limit(seconds: int) -> None:
    """Let the system end this process when it takes more than a template may."""
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _bound(resource.RLIMIT_CORE, 0)
    _bound(resource.RLIMIT_CPU, int(used) + seconds)
    if sys.platform == "linux":  # elsewhere the parent's look at what is in use has to do
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        _bound(resource.RLIMIT_AS, pages * resource.getpagesize() + (MEGABYTES << 20))


def _bound(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def found(text: str, tokens: dict[str, Any]) -> str | None:
    """What is wrong with a template, None where nothing is; one that refuses a conversation has every right to."""
    try:
        template = compile_template(text)
    except MemoryError:
        return f"takes more than {MEGABYTES} MB to be compiled"
    except Exception:  # noqa: BLE001  whoever compiles it next says what it is
        return None
    for conversation, tools in conversations():
        values = {**template.globals, **tokens, "messages": plain(conversation), "tools": tools, "documents": None}
        try:
            render(template, {**values, "add_generation_prompt": conversation[-1].role != "assistant"}, ROOM)
        except MemoryError:
            return f"takes more than {MEGABYTES} MB for a short conversation"
        except WritesTooMuch:
            return f"writes more than {ROOM:,} characters, and more than {TIMES} times what it was given"
        except Exception:  # noqa: BLE001  it refuses this conversation, in words of its own
            continue
    return None


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    compile_template("")  # all that it needs is imported before its memory is bounded
    limit(asked["seconds"])
    json.dump({"found": found(asked["template"], asked["tokens"])}, sys.stdout)
