"""The contract of a model on disk: tokenizer, template (its own or a named one) and stop tokens, proven to fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.core.errors import ModelError
from tunesmith.core.files import read_object
from tunesmith.core.names import did_you_mean
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.frame import starts_with_bos
from tunesmith.prompt.messages import Message
from tunesmith.prompt.template_check import check_template
from tunesmith.prompt.templates import MARKS, TEMPLATES


def load_contract(
    folder: Path, template: str | None = None, train_on: str = "assistant", chat: bool = True,
    add_tokens: Sequence[str] = (), prefix: str = "", answers: bool = True,
) -> Contract:  # fmt: skip
    """The contract of the model in `folder`.

    Args:
        folder: a base model, or an exported model (which carries its own template).
        template: name from the template library, for a model without a template.
        train_on: `assistant` (every assistant turn), `last` (only the last), `all` (every token).
        add_tokens: texts that become tokens of their own.
        prefix: what stands before every source of which something else is made.
        chat: whether conversations will be read; if not, a model may be without a template, as BERT is, and a
            tokenizer without a token for padding, as GPT-2's is, pads with the one that ends texts.
        answers: whether the model will answer; one that only reads conversations may frame them as encoders do texts.

    Raises:
        ModelError: no tokenizer, no template though one is needed, an unknown template, or no stop token.
    """
    tokenizer = load_tokenizer(folder)
    if add_tokens:
        _add(tokenizer, add_tokens)
    if not answers:
        name_frame(tokenizer)
    if not chat or not answers:
        name_padding(tokenizer)
    text = _template_text(folder, tokenizer, template)
    if text is None and chat:
        raise ModelError(
            f"{folder}: the model has no chat template. Choose one with model.template: {', '.join(sorted(TEMPLATES))}."
        )
    ends = [tokenizer.convert_tokens_to_ids(MARKS[template][-1])] if template in MARKS else []
    stop_ids = tuple(dict.fromkeys([*ends, *_stop_ids(folder, tokenizer, text is None)]))
    contract = Contract(tokenizer, text, stop_ids, train_on, prefix)
    if text is not None:
        check_template(text, tokenizer.special_tokens_map)
        _probe(contract)
    return contract


def name_padding(tokenizer: Any) -> None:
    """Let a tokenizer without a token for padding pad with one that stands in no text."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.sep_token or tokenizer.unk_token


def name_frame(tokenizer: Any) -> None:
    """Let a tokenizer without tokens that begin and end texts use those of its frame: BERT's [CLS] and [SEP]."""
    if tokenizer.eos_token is None and tokenizer.sep_token is not None:
        tokenizer.eos_token = tokenizer.sep_token
        tokenizer.bos_token = tokenizer.bos_token or tokenizer.cls_token


def padding_id(folder: Path) -> int | None:
    """The id that the tokenizer in `folder` pads with, or would if it is to pad; None where it has no such token."""
    tokenizer = load_tokenizer(folder)
    name_padding(tokenizer)
    return tokenizer.pad_token_id


def _add(tokenizer: Any, tokens: Sequence[str]) -> None:
    """Let the tokenizer know more tokens.

    Raises:
        ModelError: one is no text, is there already, or is named twice.
    """
    known = tokenizer.get_vocab()
    for place, token in enumerate(tokens):
        if not token.strip() or token != token.strip():
            raise ModelError(f"model.add_tokens: {token!r} is empty or begins or ends with a space. Leave that out.")
        if token in known or token in tokens[:place]:
            where = "the model's tokenizer" if token in known else "the list"
            raise ModelError(f"model.add_tokens: {token!r} is in {where} already. Leave it out.")
    tokenizer.add_tokens(list(tokens))


def _template_text(folder: Path, tokenizer: Any, template: str | None) -> str | None:
    """The named template, fitted to the tokenizer, or the tokenizer's own; None if it has none."""
    if template is not None:
        if template not in TEMPLATES:
            raise ModelError(f"model.template = {template!r}: {did_you_mean(template, TEMPLATES)}")
        if unknown := [mark for mark in MARKS.get(template, ()) if mark not in tokenizer.get_vocab()]:
            raise ModelError(
                f"model.template = {template!r}: the model's tokenizer has no {unknown[0]} token. "
                f"Choose one that fits any model: {', '.join(sorted(set(TEMPLATES) - set(MARKS)))}."
            )
        return ("{{ bos_token }}" if starts_with_bos(tokenizer) else "") + TEMPLATES[template]
    if isinstance(tokenizer.chat_template, dict):
        return tokenizer.chat_template.get("default")
    return tokenizer.chat_template or None


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer in `folder`; code that it brings along is never run.

    Raises:
        ModelError: it cannot be loaded, or has no fast form.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # rows are encoded by all cores
    if (folder / "tokenizer.json").exists():
        from transformers import PreTrainedTokenizerFast as Tokenizer
    else:  # slower to import, and able to convert older tokenizer files
        from transformers import AutoTokenizer as Tokenizer
    try:
        tokenizer = Tokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001  any broken file of the user's ends here
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{folder}: its tokenizer cannot be loaded ({reason}).") from None
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"{folder}: its tokenizer has no fast form (tokenizer.json), which tunesmith needs.")
    tokenizer.backend_tokenizer.no_truncation()  # which whoever saved it may have left on: rows would lose their ends
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _stop_ids(folder: Path, tokenizer: Any, texts_alone: bool) -> tuple[int, ...]:
    """The ids that end an answer: the tokenizer's end of sequence and those of the generation config.

    Of a model that reads texts alone and has neither, what its tokenizer ends them with: BERT's [SEP].
    """
    ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    path = folder / "generation_config.json"
    if path.exists():
        named = read_object(path).get("eos_token_id")
        listed: list[Any] = named if isinstance(named, list) else [] if named is None else [named]
        if any(type(one) is not int or one < 0 for one in listed):
            raise ModelError(f"{path}: eos_token_id = {named!r}: must be the number of a token, or a list of such.")
        ids += listed
    if not ids and texts_alone and tokenizer.sep_token_id is not None:
        ids = [tokenizer.sep_token_id]
    if not ids:
        raise ModelError(f"{folder}: no stop token (eos_token_id) in tokenizer or generation config.")
    return tuple(dict.fromkeys(ids))


def _probe(contract: Contract) -> None:
    """Prove on one exchange that training and serving see the same ids, before anything depends on it."""
    question, answer = Message("user", "Hello"), Message("assistant", "Hi there")
    asked, whole = contract.prompt((question,)), contract.render((question, answer))
    if whole.ids[: len(asked)].tolist() != asked:
        raise ModelError(
            "under this chat template the prompt is tokenised differently when an answer follows: "
            "training and serving would differ. Choose another model.template."
        )
