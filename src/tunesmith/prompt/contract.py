"""The prompt contract: one renderer for training, evaluation, serving and export.

A contract is a tokenizer, a chat template, the ids that end an answer, and the rule that says which
tokens are trained on. Its `id` is a hash of all four and travels with every model.

The mask is found from the rendering itself, so it needs no cooperation from the template: an
assistant turn is what the template adds after the prompt that would have asked for it, up to and
including the stop token. A template for which that does not hold is refused with the reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tunesmith.core.errors import ModelError
from tunesmith.core.names import did_you_mean
from tunesmith.prompt.messages import Conversation, Message, plain
from tunesmith.prompt.templates import TEMPLATES

PRIVATE_USE = range(0xF0000, 0xFFFFE)  # characters of Unicode that no template or tokenizer treats specially


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model sees it.

    Attributes:
        ids: token ids, length T.
        mask: for each token, whether it is trained on (as a target), length T.
    """

    ids: list[int]
    mask: list[bool]

    @property
    def trained(self) -> int:
        """Number of tokens that count in the loss: the first token has no prediction."""
        return sum(self.mask[1:])


@dataclass(frozen=True)
class Contract:
    """How conversations become token ids. Make one with `load_contract`."""

    tokenizer: Any
    template: str
    stop_ids: tuple[int, ...]
    train_on: str = "assistant"

    @cached_property
    def id(self) -> str:
        """SHA-256 over tokenizer, template, stop ids and mask rule."""
        parts = [self.tokenizer.backend_tokenizer.to_str(), self.template, self.stop_ids, self.train_on]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Every special token's text and id: what content must never turn into."""
        return {token.content: i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}

    @cached_property
    def _control_pattern(self) -> re.Pattern[str] | None:
        tokens = sorted(self.control_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, tokens))) if tokens else None

    def text(self, conversation: Iterable[Message], ask: bool = False) -> str:
        """The conversation through the template; `ask` adds the start of the answer to come."""
        try:
            return self.tokenizer.apply_chat_template(
                plain(conversation), chat_template=self.template, tokenize=False, add_generation_prompt=ask
            )
        except Exception as error:  # noqa: BLE001  a template is foreign code and may raise anything
            raise ModelError(f"the model's chat template refuses this conversation: {error}") from None

    def prompt(self, conversation: Conversation) -> list[int]:
        """Ids that ask the model for the next assistant turn."""
        safe, hidden = self._hide_control_tokens(conversation)
        return self._encode(self.text(safe, ask=True), hidden)[0]

    def render(self, conversation: Conversation) -> Rendered:
        """Ids and mask of a whole conversation.

        Raises:
            ModelError: the template rewrites earlier turns, or does not end a trained turn with a stop id.
        """
        safe, hidden = self._hide_control_tokens(conversation)
        whole = self.text(safe)
        ids, starts = self._encode(whole, hidden)
        mask = [False] * len(ids)
        for turn in self._trained_turns(conversation):
            before, after = self.text(safe[:turn], ask=True), self.text(safe[: turn + 1])
            if not after.startswith(before):
                raise ModelError(
                    "under this chat template an answer does not continue the prompt that asks for it, so training and "
                    "serving would differ. Choose another model.template."
                )
            # Later turns may change what follows the stop token, but nothing before it.
            end = len(os.path.commonprefix([whole, after]))  # noqa: RUF071  characters are meant
            self._mark(mask, ids, starts, len(before), end, rewritten=end < len(after.rstrip()))
        return Rendered(ids, [True] * len(ids) if self.train_on == "all" else mask)

    def _trained_turns(self, conversation: Conversation) -> list[int]:
        turns = [i for i, message in enumerate(conversation) if message.role == "assistant" and message.weight]
        return turns[-1:] if self.train_on == "last" else turns

    def _mark(self, mask: list[bool], ids: list[int], starts: list[int], begin: int, end: int, rewritten: bool) -> None:
        """Mark the tokens of text[begin:end] up to the last stop token among them."""
        inside = [i for i, start in enumerate(starts) if begin <= start < end]
        stops = [i for i in inside if ids[i] in self.stop_ids]
        if rewritten and not stops:
            raise ModelError(
                "the chat template rewrites earlier turns, so the trained tokens cannot be told apart. "
                "Use single-turn rows, data.train_on=last, or another model.template."
            )
        if not inside or starts[inside[0]] != begin:
            raise ModelError("a token spans the border between prompt and answer under this chat template.")
        if not stops:
            raise ModelError(
                "the chat template does not end the assistant's turn with one of the model's stop tokens "
                f"{self.tokenizer.convert_ids_to_tokens(list(self.stop_ids))}: the tuned model would never stop. "
                f"Name another with model.template: {', '.join(sorted(TEMPLATES))}."
            )
        mask[inside[0] : stops[-1] + 1] = [True] * (stops[-1] + 1 - inside[0])

    def _hide_control_tokens(self, conversation: Conversation) -> tuple[Conversation, dict[str, str]]:
        """Put a private character in the place of each control token that content spells out.

        Returns:
            The conversation and, for each private character in it, the text that it stands for.
        """
        if self._control_pattern is None or not any(self._control_pattern.search(m.content) for m in conversation):
            return conversation, {}
        used = set("".join(message.content for message in conversation))
        free = (chr(code) for code in PRIVATE_USE if chr(code) not in used)
        stand_in = dict(zip(self.control_tokens, free, strict=False))

        def hide(content: str) -> str:
            assert self._control_pattern is not None
            return self._control_pattern.sub(lambda hit: stand_in[hit.group()], content)

        safe = tuple(Message(m.role, hide(m.content), m.weight) for m in conversation)
        return safe, {character: token for token, character in stand_in.items()}

    def _encode(self, text: str, hidden: Mapping[str, str]) -> tuple[list[int], list[int]]:
        """Ids of `text`, and where in it each token starts.

        Text that hides control tokens is encoded in segments, cut inside each of them, so that it comes
        back as plain text and never as the token.
        """
        if not hidden:
            encoding = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
            return encoding.ids, [start for start, _ in encoding.offsets]
        segments: list[list[tuple[str, int]]] = [[]]  # characters, each with its place in `text`
        for place, character in enumerate(text):
            token = hidden.get(character, character)
            segments[-1].append((token[0], place))
            if character in hidden:
                segments.append([(rest, place) for rest in token[1:]])
        ids: list[int] = []
        starts: list[int] = []
        for segment in filter(None, segments):
            characters = "".join(character for character, _ in segment)
            encoding = self.tokenizer.backend_tokenizer.encode(characters, add_special_tokens=False)
            ids += encoding.ids
            starts += [segment[start][1] for start, _ in encoding.offsets]
        return ids, starts

    def decode(self, ids: Sequence[int]) -> str:
        """Text of an answer, without control tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def save(self, folder: Path) -> None:
        """Write the tokenizer and the template as Hugging Face tools read them."""
        self.tokenizer.chat_template = self.template
        self.tokenizer.save_pretrained(folder)


def load_contract(folder: Path, template: str | None = None, train_on: str = "assistant") -> Contract:
    """The contract of the model in `folder`.

    Args:
        folder: a base model, or a published model (which carries its own template).
        template: name from the template library, for a model without a template.
        train_on: `assistant` (every assistant turn), `last` (only the last), `all` (every token).

    Raises:
        ModelError: no tokenizer, no template, an unknown template, or no stop token.
    """
    tokenizer = load_tokenizer(folder)
    if template is not None:
        if template not in TEMPLATES:
            raise ModelError(f"model.template = {template!r}: {did_you_mean(template, TEMPLATES)}")
        text = ("{{ bos_token }}" if _starts_with_bos(tokenizer) else "") + TEMPLATES[template]
    elif isinstance(tokenizer.chat_template, dict) and "default" in tokenizer.chat_template:
        text = tokenizer.chat_template["default"]
    elif isinstance(tokenizer.chat_template, str) and tokenizer.chat_template:
        text = tokenizer.chat_template
    else:
        raise ModelError(
            f"{folder}: the model has no chat template. Choose one with model.template: {', '.join(sorted(TEMPLATES))}."
        )
    contract = Contract(tokenizer, text, _stop_ids(folder, tokenizer), train_on)
    _probe(contract)
    return contract


def _starts_with_bos(tokenizer: Any) -> bool:
    """Whether the model was trained with a beginning-of-sequence token before every text."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer in `folder`; code that it brings along is never run.

    Raises:
        ModelError: it cannot be loaded, or has no fast form.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if (folder / "tokenizer.json").exists():
        from transformers import PreTrainedTokenizerFast as Tokenizer
    else:  # slower to import, and able to convert older tokenizer files
        from transformers import AutoTokenizer as Tokenizer
    try:
        tokenizer = Tokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001  any broken file of the user's ends here
        raise ModelError(f"{folder}: its tokenizer cannot be loaded ({str(error).splitlines()[0]}).") from None
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"{folder}: its tokenizer has no fast form (tokenizer.json), which tunesmith needs.")
    return tokenizer


def _stop_ids(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """The ids that end an answer: the tokenizer's end of sequence and those of the generation config."""
    ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    path = folder / "generation_config.json"
    if path.exists():
        named = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") or []
        ids += named if isinstance(named, list) else [named]
    if not ids:
        raise ModelError(f"{folder}: no stop token (eos_token_id) in tokenizer or generation config.")
    return tuple(dict.fromkeys(ids))


def _probe(contract: Contract) -> None:
    """Prove on one exchange that training and serving see the same ids, before anything depends on it."""
    question, answer = Message("user", "Hello"), Message("assistant", "Hi there")
    asked, whole = contract.prompt((question,)), contract.render((question, answer))
    if whole.ids[: len(asked)] != asked:
        raise ModelError(
            "under this chat template the prompt is tokenised differently when an answer follows: "
            "training and serving would differ. Choose another model.template."
        )
