"""A conversation through LangChain: `pip install langchain-openai`; OPENAI_BASE_URL, OPENAI_API_KEY; MODEL named."""

from __future__ import annotations

import sys

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model=sys.argv[1], temperature=0, max_completion_tokens=40)
talk: list[BaseMessage] = []
for question in sys.argv[2:]:
    talk.append(HumanMessage(question))
    answer = "".join(str(piece.content) for piece in model.stream(talk))
    assert answer == model.invoke(talk).content
    talk.append(AIMessage(answer))
    print(answer)
