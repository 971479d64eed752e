"""The prompt contract: one renderer for training, evaluation, serving and export.

A contract is a tokenizer, a chat template, the ids that end an answer, and the rule that says which
tokens are trained on. Its `id` is a hash of all four and travels with every model. A model that nobody
chats with has a tokenizer alone: its contract has no template, renders plain text, and refuses a conversation.

The mask is found from the rendering itself, so it needs no cooperation from the template: an
assistant turn is what the template adds after the prompt that would have asked for it, up to and
including the stop token. A template for which that does not hold is refused with the reason.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.core.errors import ModelError
from tunesmith.prompt.decode import Decoder, decode_whole
from tunesmith.prompt.draft import Draft, Rendered
from tunesmith.prompt.encode import encoded
from tunesmith.prompt.frame import Frame, framed, frames_of, needs_spaces, target_frame
from tunesmith.prompt.guard import Guard
from tunesmith.prompt.identity import contract_id
from tunesmith.prompt.messages import Conversation, Message, Tools, plain
from tunesmith.prompt.render import compile_template, render
from tunesmith.prompt.shown import prompt_of, refuse_left_out, shown_parts, unshown_call
from tunesmith.prompt.templates import TEMPLATES


class RewritesTurns(ModelError):  # noqa: N818  it is a finding about a template
    """The template shows an earlier answer otherwise than it was trained: each turn needs a row of its own."""


@dataclass(frozen=True)
class Contract:
    """How conversations become token ids. Make one with `load_contract`.

    Attributes:
        tokenizer: of transformers, fast.
        template: of chats.
        stop_ids: that end an answer.
        train_on: `assistant`, `last` or `all`.
        prefix: what stands before every source of which something else is made: "translate English to German: ".
    """

    tokenizer: Any
    template: str | None
    stop_ids: tuple[int, ...]
    train_on: str = "assistant"
    prefix: str = ""

    @cached_property
    def id(self) -> str:
        """SHA-256 over the content of tokenizer and template, stop ids and mask rule."""
        return contract_id(self.tokenizer, self.template, self.stop_ids, self.train_on, self.prefix)

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Every special token's text and id: what content must never turn into."""
        return {token.content: i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}

    @cached_property
    def guard(self) -> Guard:
        """What keeps content from turning into control tokens."""
        added = (token.content for token in self.tokenizer.added_tokens_decoder.values())
        return Guard(frozenset(self.control_tokens), frozenset(added))

    @cached_property
    def shows(self) -> dict[str, bool]:
        """Whether the template shows the `tools` that a row declares, and the `reasoning` before an answer."""
        return shown_parts(self._through_template)

    def text(self, conversation: Iterable[Message], ask: bool = False, tools: Tools = ()) -> str:
        """The conversation through the template; `ask` adds the start of the answer to come."""
        return self._through_template(plain(conversation), ask, list(tools) or None)

    def _through_template(self, turns: list[dict[str, Any]], ask: bool, tools: list[Any] | None) -> str:
        template, variables = self._compiled, self._variables
        values = {**variables, "messages": turns, "tools": tools, "documents": None, "add_generation_prompt": ask}
        try:
            return render(template, values)
        except Exception as error:  # noqa: BLE001  a template is foreign code and may raise anything
            raise ModelError(f"the model's chat template refuses this conversation: {error}") from None

    @cached_property
    def _compiled(self) -> Any:
        if self.template is None:
            raise ModelError(
                "a conversation needs a chat template, and the model was loaded without one. Choose one with "
                "model.template."
            )
        try:
            return compile_template(self.template)
        except Exception as error:  # noqa: BLE001  a template that is none
            raise ModelError(f"the model's chat template cannot be compiled: {error}") from None

    @cached_property
    def _variables(self) -> dict[str, Any]:
        """What templates may use beside the conversation: the sandbox's functions, and special tokens by name."""
        return {**self._compiled.globals, **self.tokenizer.special_tokens_map}

    def prompt(self, conversation: Conversation, tools: Tools = ()) -> list[int]:
        """Ids that ask the model for the next assistant turn."""
        safe = self.guard.hide(conversation, tools)
        return self._encode(self.text(safe.messages, ask=True, tools=safe.tools), safe.hidden)[0]

    def render(self, conversation: Conversation, tools: Tools = ()) -> Rendered:
        """Ids and trained spans of a whole conversation.

        Raises:
            RewritesTurns: the template rewrites earlier turns.
            ModelError: it refuses the conversation, or does not end a trained turn with a stop id.
        """
        return self._placed(self.draft(conversation, tools))

    def render_many(self, drafts: Sequence[Draft]) -> list[Rendered | ModelError]:
        """What `render` gives for each, or the error that it raises, many times faster.

        The texts are encoded together, without asking the tokenizer where each token stands: control tokens,
        which content cannot hold, are the same in text and ids, so that counting them finds every turn.
        """
        parts = [part for draft in drafts if draft.read is None for part in draft.parts or (draft,)]
        together = [part.text for part in parts if not part.hidden]
        encodings = iter(self.tokenizer.backend_tokenizer.encode_batch_fast(together, add_special_tokens=False))
        results: list[Rendered | ModelError] = []
        for draft in drafts:
            if draft.parts:
                ids = [
                    self._encode(part.text, part.hidden)[0] if part.hidden else next(encodings).ids
                    for part in draft.parts
                ]
                results.append(self._read(draft, ids))
                continue
            found = self._fenced(draft, next(encodings).ids) if not draft.hidden and draft.read is None else None
            try:
                results.append(draft.read(self) if draft.read is not None else found or self._placed(draft))
            except ModelError as error:
                results.append(error)
        return results

    def draft_text(self, text: str) -> Draft:
        """Plain text: all of it is trained on, from the beginning-of-sequence token (if any) to a stop id."""
        safe = self.guard.hide((Message("user", text),), ())
        return Draft(safe.messages[0].content, (), safe.hidden, whole=True)

    def draft_read(self, text: str, second: str | None = None) -> Draft:
        """A text, or a pair of texts, as a classifier reads it: as `tokenizer(text, second)` gives it.

        Where a tokenizer puts nothing between two texts, as those of decoders do not, a line break stands there.
        """
        texts = [text] if second is None else [text, second]
        if second is not None and not self.frames[1].between:
            texts = [f"{text}\n{second}"]
        return Draft("", (), {}, parts=tuple(self.draft_text(one) for one in texts))

    def draft_source(self, text: str) -> Draft:
        """A text of which another is made: as `tokenizer(text)` gives it, the contract's prefix before it."""
        return Draft("", (), {}, parts=(self.draft_text(self.prefix + text),), role="source")

    def draft_target(self, text: str) -> Draft:
        """What is made of a source: as `tokenizer(text_target=text)` gives it, all of it learned."""
        return Draft("", (), {}, parts=(self.draft_text(text),), role="target")

    def with_masks(self, text: str) -> list[int]:
        """The ids of a text in which the mask token counts, and no other control token, in the tokenizer's frame."""
        safe, mask = self.guard.hide((Message("user", text),), ()), self.tokenizer.mask_token
        shown, hidden = safe.messages[0].content, dict(safe.hidden)
        for character, token in safe.hidden.items():
            if token == mask:
                shown = shown.replace(character, token)
                del hidden[character]
        present = {character: token for character, token in hidden.items() if character in shown}
        return framed(self.frames, [self._encode(shown, present)[0]])[0].tolist()

    def draft(self, conversation: Conversation, tools: Tools = ()) -> Draft:
        """The conversation as text, and where in it the trained turns stand.

        Raises:
            ModelError: the template refuses it, or an answer does not continue the prompt that asks for it.
        """
        safe = self.guard.hide(conversation, tools)
        said, given = plain(safe.messages), list(safe.tools) or None
        whole = self._through_template(said, False, given)
        turns: list[tuple[int, int, bool]] = []
        refuse_left_out(self._through_template, said, whole, given)
        for turn in self._trained_turns(conversation):
            before = prompt_of(self._through_template, said, turn, given)
            last = turn == len(conversation) - 1
            after = whole if last else self._through_template(said[: turn + 1], False, given)
            if not after.startswith(before):
                raise ModelError(
                    "under this chat template an answer does not continue the prompt that asks for it, so training and "
                    "serving would differ. Choose another model.template."
                )
            # Later turns may change what follows the stop token, but nothing before it.
            end = len(whole) if last else len(os.path.commonprefix([whole, after]))  # noqa: RUF071
            for call in safe.messages[turn].tool_calls:
                if call.name not in whole[len(before) : end]:
                    raise unshown_call(call.name)
            turns.append((len(before), end, end < len(after.rstrip())))
        return Draft(whole, tuple(turns), safe.hidden)

    def _trained_turns(self, conversation: Conversation) -> list[int]:
        turns = [i for i, message in enumerate(conversation) if message.role == "assistant" and message.weight]
        return turns[-1:] if self.train_on == "last" else turns

    def _placed(self, draft: Draft) -> Rendered:
        """Encode a draft and find its spans by where each token starts: always right, and slow."""
        ids, starts = self._encode(draft.text, draft.hidden)
        if draft.whole:
            return self._framed(ids)
        spans = tuple(self._span(ids, starts, *turn) for turn in draft.turns)
        return self._rendered(array("i", ids), spans)

    def _rendered(self, ids: array[int], spans: tuple[tuple[int, int], ...]) -> Rendered:
        return Rendered(ids, ((0, len(ids)),) if self.train_on == "all" else spans)

    def _framed(self, ids: list[int]) -> Rendered:
        framed = [*self._opening, *ids, self.stop_ids[0]]
        return Rendered(array("i", framed), ((0, len(framed)),))

    def _read(self, draft: Draft, ids: Sequence[list[int]]) -> Rendered:
        """The ids of a draft with parts, in the frame that the tokenizer puts around them."""
        if not draft.role:
            return Rendered(*framed(self.frames, ids))
        frame = self._target_frame if draft.role == "target" else self.frames[0]
        whole, _ = framed((frame, frame), ids)
        return Rendered(whole, ((0, len(whole)),), first=0) if draft.role == "target" else Rendered(whole, ())

    @cached_property
    def frames(self) -> tuple[Frame, Frame]:
        """What the tokenizer puts around one text, and around two."""
        return frames_of(self.tokenizer)

    @cached_property
    def spaced(self) -> bool:
        """Whether the tokenizer tells words by the space before them: alone they are other tokens than in a text."""
        return needs_spaces(self.tokenizer)

    @cached_property
    def _target_frame(self) -> Frame:
        return target_frame(self.tokenizer)

    @cached_property
    def _opening(self) -> list[int]:
        """What stands before every text: a beginning-of-sequence token, or BERT's [CLS], where the model wants one."""
        first = self.tokenizer("a")["input_ids"][0]
        return [first] if first in (self.tokenizer.bos_token_id, self.tokenizer.cls_token_id) else []

    @property
    def around_pieces(self) -> tuple[list[int], list[int]]:
        """What stands before and behind each piece of a text that is cut into several.

        Before it what opens a text; behind it nothing, since the text goes on, but of an encoder's tokenizer what
        closes its frame.
        """
        encoder = self.tokenizer.mask_token_id is not None and self._opening == [self.tokenizer.cls_token_id]
        return self._opening, [self.stop_ids[0]] if encoder else []

    def _span(self, ids: list[int], starts: list[int], begin: int, end: int, rewritten: bool) -> tuple[int, int]:
        """The tokens of text[begin:end] up to the last stop token among them."""
        inside = [i for i, start in enumerate(starts) if begin <= start < end]
        stops = [i for i in inside if ids[i] in self.stop_ids]
        if rewritten and not stops:
            raise RewritesTurns(
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
        return inside[0], stops[-1] + 1

    def _fenced(self, draft: Draft, ids: list[int]) -> Rendered | None:
        """Spans by counting control tokens; None where that proves nothing, and `_placed` must look."""
        if draft.whole:
            return self._framed(ids)
        packed = array("i", ids)
        hits = list(self._control_pattern.finditer(draft.text))
        posts = np.flatnonzero(self._is_control[np.frombuffer(packed, np.int32)]).tolist()
        if [ids[post] for post in posts] != [self.control_tokens[hit.group()] for hit in hits]:
            return None
        spans: list[tuple[int, int]] = []
        for begin, end, _ in draft.turns:
            passed = sum(hit.start() < begin for hit in hits)
            if not passed or hits[passed - 1].end() > begin:
                return None
            head = self._head_ids(draft.text[hits[passed - 1].end() : begin])
            first = posts[passed - 1] + 1
            stops = [
                i for i, hit in zip(posts, hits, strict=True) if begin <= hit.start() < end and ids[i] in self.stop_ids
            ]
            if not stops or head is None or ids[first : first + len(head)] != head:
                return None
            spans.append((first + len(head), stops[-1] + 1))
        return self._rendered(packed, tuple(spans))

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        tokens = sorted(self.control_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, tokens)) or r"(?!)")

    @cached_property
    def _is_control(self) -> np.ndarray:
        """For each id, whether it is a control token's."""
        table = np.zeros(max(len(self.tokenizer), *self.control_tokens.values()) + 1, dtype=bool)
        table[list(self.control_tokens.values())] = True
        return table

    @cached_property
    def _heads(self) -> dict[str, list[int] | None]:
        return {}

    def _head_ids(self, head: str) -> list[int] | None:
        """Ids of what a template writes between a control token and the answer; None if they may not stand for it."""
        if head not in self._heads:
            ids = self.tokenizer.backend_tokenizer.encode(head, add_special_tokens=False).ids
            faithful = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == head
            if len(self._heads) > 1000:
                self._heads.clear()
            self._heads[head] = ids if faithful else None
        return self._heads[head]

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of a text that is read, without a frame, and where in it each token starts."""
        draft = self.draft_text(text)
        ids, starts = self._encode(draft.text, draft.hidden)
        if not draft.hidden:
            return ids, starts
        widths = (len(draft.hidden.get(character, character)) for character in draft.text)
        places = list(accumulate(widths, initial=0))
        return ids, [places[start] for start in starts]

    def _encode(self, text: str, hidden: Mapping[str, str]) -> tuple[list[int], list[int]]:
        """Ids of `text`, and where in it each token starts."""
        return encoded(self.tokenizer.backend_tokenizer, text, hidden)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of an answer, without control tokens."""
        return decode_whole(self.tokenizer, ids)

    def decoder(self) -> Decoder:
        """What makes the text of one answer in pieces, as its tokens come."""
        return Decoder(self.tokenizer)

    def save(self, folder: Path) -> None:
        """Write the tokenizer and the template as Hugging Face tools read them."""
        self.tokenizer.chat_template = self.template
        try:
            self.tokenizer.save_pretrained(folder)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001  tokenizers says nothing better when a disk is full
            raise OSError(str(error)) from None
