"""What rules about prompts look at, what they say, and how they change a prompt; `lint_rules` has them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.data.kinds.row import Row
from tunesmith.data.prompting.variant import with_labels
from tunesmith.evaluate.prompts.rows import PromptRows
from tunesmith.evaluate.prompts.versions import Prompt


@dataclass(frozen=True)
class Tokens:
    """What a model's tokenizer makes of a prompt.

    Attributes:
        model: its name.
        takes: tokens of prompt and answer.
        lengths: of each validation row's prompt with the longest answer.
        labels: ids of each label.
    """

    model: str
    takes: int
    lengths: list[int]
    labels: dict[str, list[int]]


@dataclass(frozen=True)
class Looked:
    """A prompt, and what it is asked about.

    Attributes:
        prompt: to look at.
        schema: that its answers must fit.
        rows: split.
        examples: those of each validation row.
        tokens: of a model of this machine; None where there is none.
    """

    prompt: Prompt
    schema: dict[str, Any] | None
    rows: PromptRows
    examples: list[list[Row]]
    tokens: Tokens | None = None

    @property
    def raw(self) -> str:
        """All fixed words, `{labels}` not filled in."""
        said = self.prompt
        if said.template is None:
            return said.instruction
        text = said.template.replace("{instruction}", said.instruction)
        return re.sub(r"{(?:text|text_pair|examples)}", "", text).replace("{{", "{").replace("}}", "}")

    @property
    def text(self) -> str:
        """All fixed words."""
        return with_labels(self.raw, self.rows.labels)

    @property
    def where(self) -> str:
        """What a sentence calls these words."""
        return "the instruction" if self.prompt.template is None else "the template"

    @property
    def shown(self) -> list[Row]:
        """Worked examples that are the same for all questions."""
        return [] if self.prompt.examples == "nearest" or not self.examples else self.examples[0]


@dataclass(frozen=True)
class Rule:
    """One thing to look for.

    Attributes:
        name: of it.
        look: says what it found; None if nothing.
        advice: what to do.
        fix: the prompt with that done; None where that is not possible here. No rule can do what only a user knows.
    """

    name: str
    look: Callable[[Looked], str | None]
    advice: str
    fix: Callable[[Looked], Prompt | None] = lambda looked: None


@dataclass(frozen=True)
class Finding:
    """What a rule found.

    Attributes:
        name: of the rule.
        found: a sentence.
        advice: another.
        fixed: the prompt with the advice done, where that can be tried.
    """

    name: str
    found: str
    advice: str
    fixed: Prompt | None


def with_sentence(prompt: Prompt, sentence: str) -> Prompt:
    """A prompt that says one thing more, at the end of its instruction, or above its template."""
    if prompt.template is None or ("{instruction}" in prompt.template and prompt.instruction):
        return replace(prompt, instruction=f"{prompt.instruction} {sentence}".strip())
    return replace(prompt, template=f"{sentence}\n\n{prompt.template}")


def reworded(prompt: Prompt, change: Callable[[str], str | None]) -> Prompt | None:
    """A prompt whose words, instruction or template, are changed; None where nothing would be left of them."""
    instruction, template = change(prompt.instruction), prompt.template and change(prompt.template)
    if template is not None and template != prompt.template:
        return replace(prompt, template=template) if "{text}" in template else None
    if instruction is not None and instruction != prompt.instruction:
        return replace(prompt, instruction=instruction) if instruction else None
    return None
