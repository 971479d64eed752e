"""Chats that a program wrote out as one text: as they stand, questions are learned like answers, and frames as text.

Only told, never parsed: what a frame meant is the file's secret.
"""

from __future__ import annotations

import re

GIVE_TURNS = (
    'Give turns that the model\'s own template can frame: {"messages": [{"role": "user", "content": ...}, ...]}.'
)
FRAMES = {  # control tokens that only templates write
    "ChatML's": "<|im_start|>",
    "Llama 3's": "<|start_header_id|>",
    "Llama 4's": "<|header_start|>",
    "Mistral's or Llama 2's": "[INST]",
    "Gemma's": "<start_of_turn>",
    "Zephyr's or Phi's": "<|assistant|>",
    "gpt-oss's": "<|start|>assistant",
    "Cohere's": "<|START_OF_TURN_TOKEN|>",
    "DeepSeek's": "<\uff5cAssistant\uff5c>",
}
# Words that begin a line, first for who asks and then for who answers.
SPOKEN = {
    "Alpaca's": (r"^#{2,3} ?(?:instruction|input|question|prompt)s?\b", r"^#{2,3} ?(?:response|answer|output)\b"),
    "Guanaco's": (r"^#{2,3} ?(?:human|user)\b", r"#{2,3} ?(?:assistant|bot|ai)\b"),
    "a script's": (
        r"^\s*(?:\*\*)?(?:user|human|q|question|customer|instruction)(?:\*\*)? ?:",
        r"^\s*(?:\*\*)?(?:assistant|ai|bot|gpt|chatgpt|a|answer|agent|response)(?:\*\*)? ?:",
    ),
}
PATTERNS = {
    name: tuple(re.compile(word, re.MULTILINE | re.IGNORECASE) for word in words) for name, words in SPOKEN.items()
}
SEARCHED_CHARACTERS = 20_000  # characters of a text in which written-out turns are looked for


def frame_of(text: str) -> str | None:
    """Whose way of writing chats out a text follows, if any."""
    head = text[:SEARCHED_CHARACTERS]
    if "<" in head or "[" in head:
        for name, mark in FRAMES.items():
            if mark in head:
                return name
    if "##" in head or ":" in head:
        for name, (asks, answers) in PATTERNS.items():
            if (asked := asks.search(head)) and answers.search(head, asked.end()):
                return name
    return None
