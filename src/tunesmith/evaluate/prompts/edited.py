"""A prompt as a text to edit: what is opened, and what becomes of what was typed."""

from __future__ import annotations

import string
from dataclasses import replace

from tunesmith.core.errors import ConfigError
from tunesmith.data.prompting.variant import (
    as_written,
    checked_template,
    choices_of,
    fields_of,
    read_instruction,
    read_template,
)
from tunesmith.evaluate.prompts.versions import Prompt, Version

MARK = "#:"  # at the beginning of lines that are for who edits
MEANINGS = {
    "text": "what is asked about; a template has it",
    "text_pair": "the second text of a pair",
    "labels": "the classes, parted by commas",
    "examples": "the worked examples",
}


def opened(version: Version) -> str:
    """What is opened to change a version: its text, below what explains it."""
    said, kind, pairs = version.prompt, version.rows["kind"], version.rows["pairs"]
    score = version.scores.get(version.metric)
    worth = f", {version.metric} {score['value']:.1f} [{score['low']:.1f}, {score['high']:.1f}]" if score else ""
    lines = [f"A prompt for {version.rows['file']}, from version {version.id} ({version.told}{worth})."]
    if said.template is None:
        lines += [
            "This is the instruction, at the beginning of the first turn; worked examples are earlier turns.",
            "With {text} in it, it becomes a template: the whole prompt in one turn, in your words. Fields:",
        ]
    else:
        lines.append("This is the template: the whole prompt, in one turn. Fields:")
    lines += [f"  {{{name}}}: {MEANINGS[name]}" for name in _fields(kind, pairs)]
    lines += [
        "Braces that are text are written twice. Lines like these at the top are taken out.",
        "An empty file, or one that is not changed, makes no version.",
    ]
    return "".join(f"{MARK} {line}\n" for line in lines) + text_of(version.prompt) + "\n"


def text_of(prompt: Prompt) -> str:
    """A prompt as a text to edit: its template with the instruction in it, or its instruction."""
    if prompt.template is None:
        return as_written(prompt.instruction)
    written = ""
    for text, field, _, _ in string.Formatter().parse(prompt.template):
        written += text.replace("{", "{{").replace("}", "}}")
        if field is not None:
            written += as_written(prompt.instruction) if field == "instruction" else f"{{{field}}}"
    return written


def typed(text: str) -> str:
    """What was typed, without the marked lines at the top and the end of the last line."""
    lines = text.split("\n")
    while lines and lines[0].startswith(MARK):
        del lines[0]
    return "\n".join(lines).removesuffix("\n")


def prompt_from(
    text: str, parent: Version, where: str, shots: int | None = None, examples: str | None = None,
    seed: int | None = None,
) -> Prompt:  # fmt: skip
    """The prompt that a text says.

    Args:
        text: that was typed.
        parent: whose examples it has.
        where: what a sentence calls it.
        shots: another number of examples.
        examples: another way to choose them.
        seed: another seed of that.

    Raises:
        ConfigError: the text has a field that there is not, or lacks one that is needed; or the examples make no sense.
    """
    prompt = _examples(parent, shots, examples, seed)
    kind, pairs = parent.rows["kind"], parent.rows["pairs"]
    fields = read_template(text, _fields(kind, pairs), where).fields
    if prompt.template is not None or "text" in fields:
        checked_template(text, kind, pairs, prompt.shots > 0, where)
        return replace(prompt, template=text, instruction="")
    if other := sorted(fields - {"labels"}):
        raise ConfigError(
            f"{where}: has {{{other[0]}}} and no {{text}}. Put {{text}} in, which makes it a template; or take "
            f"{{{other[0]}}} out, so that it is an instruction."
        )
    return replace(prompt, instruction=read_instruction(text, kind != "chat", where))


def _examples(parent: Version, shots: int | None, examples: str | None, seed: int | None) -> Prompt:
    """The parent's prompt, with other examples if they are wanted."""
    said = parent.prompt
    count = said.shots if shots is None else shots
    choice = examples or said.examples
    if count and not choice:
        raise ConfigError(f"--shots {count}: say how they are chosen with --examples.")
    [way] = choices_of([choice], parent.rows["kind"]) if count else [""]
    drawn = said.seed if seed is None else seed
    same = (count, way, drawn) == (said.shots, said.examples, said.seed)
    return replace(said, shots=count, examples=way, seed=drawn, chosen=said.chosen if same else None)


def _fields(kind: str, pairs: bool) -> list[str]:
    """All but the instruction, which is written out."""
    return [name for name in fields_of(kind, pairs) if name != "instruction"]
