"""Prompt tuning: vectors before every prompt, and nothing else (Lester et al., 2021, arXiv 2104.08691)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from tunesmith.core.config import Section, option
from tunesmith.core.errors import ModelError
from tunesmith.core.files import read_object
from tunesmith.model.methods.method import Method


class PromptTuningConfig(Section):
    """Train a few vectors that stand before every prompt (Lester et al., 2021): the base stays as it is."""

    type: Literal["prompt_tuning"] = "prompt_tuning"
    tokens: int = option(20, "How many.", "8 to 100; each takes a position of the context.", ge=1, le=1024)
    init: Literal["vocabulary", "text", "random"] = option(
        "vocabulary", "Where they start: at words drawn at random, at the words of a text, or anywhere."
    )
    text: str | None = option(None, "For init: text. Repeated or cut to so many tokens.")
    continue_from: str | None = option(None, "A run or exported prompt of the same base to start from.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        refuse_text(self.init, self.text)
        return self


def refuse_text(init: str, text: str | None) -> None:
    """Refuse a text that nothing starts from, or a start from none.

    Raises:
        ValueError: it is so.
    """
    if (init == "text") != (text is not None):
        raise ValueError("text is what init: text starts from: give both or none")


def apply(model: Any, config: PromptTuningConfig) -> Any:
    """The model, frozen, with soft tokens.

    Raises:
        ModelError: the text has no tokens, or what is to be continued is something else.
    """
    from tunesmith.model.soft import Prompt, give_soft_tokens

    return give_soft_tokens(model, Prompt(start(model, config)), config.tokens)


def start(model: Any, config: PromptTuningConfig) -> Any:
    """The vectors (P, C) to begin with, in fp32."""
    import torch

    words_VC = model.get_input_embeddings().weight.detach().float()
    if config.continue_from is not None:
        return earlier(config.continue_from, config.tokens, words_VC.shape[1])
    if config.init == "random":
        return torch.randn(config.tokens, words_VC.shape[1]).to(words_VC) * words_VC.std()
    return words_VC[first_words(model, config.tokens, config.init, config.text)].clone()


def first_words(model: Any, tokens: int, init: str, text: str | None) -> list[int]:
    """The ids of the words that so many soft tokens start at.

    Raises:
        ModelError: the text has no tokens.
    """
    import torch

    if init != "text":
        return torch.randperm(len(model.get_input_embeddings().weight))[:tokens].tolist()
    from tunesmith.prompt.load import load_tokenizer

    ids = load_tokenizer(Path(model.name_or_path)).encode(text, add_special_tokens=False)
    if not ids:
        raise ModelError(f"method.text = {text!r} has no tokens.")
    return [ids[place % len(ids)] for place in range(tokens)]


def earlier(name: str, tokens: int, width: int) -> Any:
    """The vectors of an earlier run.

    Raises:
        ModelError: it has others, or so many others.
    """
    from tunesmith.model.layout import ADAPTER, adapter_folder
    from tunesmith.model.soft import KINDS, read_vectors

    folder = adapter_folder(name)
    if read_object(folder / ADAPTER).get("peft_type") not in KINDS:
        raise ModelError(f"{folder}: it is no soft prompt. Only soft prompts can be started from here.")
    vectors_PC = read_vectors(folder, width)
    if len(vectors_PC) != tokens:
        raise ModelError(
            f"method.tokens = {tokens}, and the prompt in {folder} has {len(vectors_PC)}. "
            f"Set method.tokens={len(vectors_PC)}."
        )
    return vectors_PC.float()


PROMPT_TUNING = Method(
    PromptTuningConfig,
    apply,
    learning_rate=3e-2,
    can=frozenset({"base_untouched", "continue", "quantize"}),
    label="prompt tuning",
    source="Lester et al., 2021, arXiv 2104.08691",
    whole=lambda config: True,
)
