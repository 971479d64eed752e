"""Which tokens end an answer of a model from a GGUF file: what its chat template writes counts, not its settings alone.

A file names one end of text, and often that of plain texts where conversations end otherwise: such a model would
write on for ever. So one exchange goes through the template, and what stands behind the answer is looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.core.errors import ModelError
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.load import load_tokenizer
from tunesmith.prompt.messages import Message
from tunesmith.prompt.template_check import check_template

QUESTION, ANSWER = "Where is it?", "Right behind you"


def find_endings(folder: Path, adds_bos: bool) -> tuple[list[int], list[str]]:
    """The ids that end an answer, that of the template first, and what a user should know.

    Args:
        folder: with tokenizer and template.
        adds_bos: whether the file says that each text begins with a beginning-of-sequence token.
    """
    tokenizer = load_tokenizer(folder)
    named = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if not tokenizer.chat_template:
        return named, ["the file has no chat template: name one with model.template."]
    text, reason = _exchange(tokenizer, named)
    if text is None:
        return named, [f"its chat template is of no use ({reason.rstrip('.')}): name another with model.template."]
    notes: list[str] = []
    if adds_bos and tokenizer.bos_token and not text.startswith(tokenizer.bos_token):
        notes.append(
            f"its file wants {tokenizer.bos_token} before each text and its chat template writes none: conversations "
            "begin without it, as in transformers."
        )
    end = _first_control(tokenizer, text.rpartition(ANSWER)[2])
    if end is None or end in named:
        return named, notes
    written = tokenizer.convert_ids_to_tokens(end)
    says = f"names {tokenizer.eos_token} as the end of text" if named else "names no end of text"
    both = "both end an answer here" if named else "it ends an answer here"
    return [end, *named], [*notes, f"its file {says}, and its chat template ends an answer with {written}: {both}."]


def _exchange(tokenizer: Any, stop_ids: list[int]) -> tuple[str | None, str]:
    """A question and its answer through the template; None with the reason where that is not possible."""
    try:
        check_template(tokenizer.chat_template, tokenizer.special_tokens_map)
        contract = Contract(tokenizer, tokenizer.chat_template, tuple(stop_ids))
        text = contract.text((Message("user", QUESTION), Message("assistant", ANSWER)))
    except ModelError as error:
        return None, str(error)
    return (text, "") if ANSWER in text else (None, "it does not show the answer")


def _first_control(tokenizer: Any, text: str) -> int | None:
    control = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    return next((id for id in ids if id in control), None)
