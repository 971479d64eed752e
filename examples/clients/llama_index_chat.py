"""A conversation through LlamaIndex: `pip install llama-index-llms-openai-like`, and MODEL as argument."""

from __future__ import annotations

import os
import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

model = OpenAILike(
    model=sys.argv[1],
    api_base=os.environ["OPENAI_BASE_URL"],
    api_key=os.environ["OPENAI_API_KEY"],
    is_chat_model=True,
    temperature=0,
    max_tokens=40,
)
talk: list[ChatMessage] = []
for question in sys.argv[2:]:
    talk.append(ChatMessage(role="user", content=question))
    answer = "".join(piece.delta or "" for piece in model.stream_chat(talk))
    assert answer == model.chat(talk).message.content
    talk.append(ChatMessage(role="assistant", content=answer))
    print(answer)
