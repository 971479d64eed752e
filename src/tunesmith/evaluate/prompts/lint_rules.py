"""The rules of `tunesmith prompts --lint`: each looks at a prompt with its rows and says what it found, or nothing.

`RULES` is the table, in the order in which findings are told.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tunesmith.core.names import counted
from tunesmith.data.kinds.row import Row
from tunesmith.data.prompting.variant import DEFAULT_INSTRUCTION, LABELS, answer_of, question_of
from tunesmith.evaluate.prompts import lint_words as words
from tunesmith.evaluate.prompts.labels import folded
from tunesmith.evaluate.prompts.lint import Finding, Looked, Rule, reworded, with_sentence
from tunesmith.evaluate.prompts.rows import PromptRows
from tunesmith.evaluate.prompts.versions import Prompt

NEAR = 0.9  # of the tokens that a model takes
MANY_TOKENS = 6  # of a label
LONG_QUESTION = 25  # characters: a question that a prompt repeats by chance is shorter
COMMON_KEY = 0.9  # of the rows have a key
WORDS_OF_TEXT = 3  # in a value that is text, on average


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _empty(looked: Looked) -> str | None:
    return None if looked.text.strip() else "the prompt has no words of its own: there is no instruction."


def _from_nothing(looked: Looked) -> Prompt | None:
    return with_sentence(looked.prompt, DEFAULT_INSTRUCTION) if looked.rows.labels else None


def _no_format(looked: Looked) -> str | None:
    known = words.FORMAT_OF_CLASSES if looked.rows.labels else words.FORMAT_OF_CHATS
    if not looked.text.strip() or looked.schema is not None or known.search(looked.text):
        return None
    return f"{looked.where} does not say what an answer looks like."


def _ask_for_format(looked: Looked) -> Prompt | None:
    if looked.rows.labels:
        return with_sentence(looked.prompt, "Answer with the label alone.")
    usual = round(statistics.median(words.sentences(answer_of(row)) for row in looked.rows.training))
    return with_sentence(looked.prompt, f"Answer in {counted(usual, 'sentence')}.")


def _no_json(looked: Looked) -> str | None:
    if looked.schema is None or not looked.text.strip() or re.search(r"\bjson\b", looked.text, re.I):
        return None
    return f"answers must be JSON that fits a schema, and {looked.where} does not say so."


def _no_context(looked: Looked) -> str | None:
    if not looked.text.strip() or words.CONTEXT.search(looked.raw):
        return None
    return f"{looked.where} does not say who asks, who answers, or what the texts are."


def _give_role(looked: Looked) -> Prompt | None:
    role = "You are an expert in telling such texts apart." if looked.rows.labels else "You are an expert who answers."
    said = looked.prompt
    if said.template is None or ("{instruction}" in said.template and said.instruction):
        return replace(said, instruction=f"{role} {said.instruction}".strip())
    return replace(said, template=f"{role}\n\n{said.template}")


def _contradiction(looked: Looked) -> str | None:
    clash = words.clash_in(looked.raw)
    return None if clash is None else f"{looked.where} asks for {clash.one}, and for {clash.other}."


def _without_clash(looked: Looked) -> Prompt | None:
    clash = words.clash_in(looked.raw)
    assert clash is not None
    return reworded(
        looked.prompt, lambda text: words.without_sentence(text, clash.words) if clash.words in text else text
    )


def _unused_field(looked: Looked) -> str | None:
    template, rows = looked.prompt.template, looked.rows
    if template is not None and rows.pairs and "{text_pair}" not in template:
        return "rows are pairs of texts, and the template has no {text_pair}: the second text is not shown."
    if template is not None and looked.prompt.instruction and "{instruction}" not in template:
        return "there is an instruction, and the template has no {instruction}: it is not shown."
    others = [key for key in dict.fromkeys(key for row in rows.validation for key in row.labels) if _is_text(key, rows)]
    if not others:
        return None
    names = ", ".join(map(repr, others))
    return f"rows also have {names}, and the prompt shows nothing of {'it' if len(others) == 1 else 'them'}."


def _is_text(key: str, rows: PromptRows) -> bool:
    """Whether a key of the rows holds text that may say more about them."""
    values = [row.labels[key] for row in rows.validation if isinstance(row.labels.get(key), str)]
    long = sum(len(value.split()) for value in values) >= WORDS_OF_TEXT * len(values)
    return len(values) >= COMMON_KEY * len(rows.validation) and long


def _show_pair(looked: Looked) -> Prompt | None:
    template = looked.prompt.template
    if template is None:
        return None
    if looked.rows.pairs and "{text_pair}" not in template:
        return replace(looked.prompt, template=template.replace("{text}", "{text}\n{text_pair}", 1))
    if looked.prompt.instruction and "{instruction}" not in template:
        return replace(looked.prompt, template=f"{{instruction}}\n\n{template}")
    return None


def _labels_not_named(looked: Looked) -> str | None:
    labels = looked.rows.labels
    shown = {answer_of(row) for row in looked.shown}
    missing = [one for one in labels if one not in shown and not words.names_label(looked.text, one)]
    if not missing or not labels:
        return None
    if len(missing) == len(labels):
        return f"none of the {len(labels)} labels is named, neither in words nor by an example."
    return f"{len(missing)} of {counted(len(labels), 'label')} {_are(len(missing))} not named, such as {missing[0]!r}."


def _unknown_labels(looked: Looked) -> str | None:
    unknown = _unknown(looked)
    if not unknown:
        return None
    names = ", ".join(map(repr, unknown[:3]))
    return f"{looked.where} lists {names}, which {'is the label' if len(unknown) == 1 else 'are labels'} of no row."


def _unknown(looked: Looked) -> list[str]:
    known = {folded(label) for label in looked.rows.labels}
    listed = [name for _, names in words.listed_labels(looked.raw) for name in names]
    return [name for name in dict.fromkeys(listed) if known and folded(name) not in known]


def _list_labels(looked: Looked) -> Prompt | None:
    lists = [text for text, names in words.listed_labels(looked.raw) if set(names) & set(_unknown(looked))]

    def change(text: str) -> str:
        for one in lists:
            text = text.replace(one.strip(), LABELS)
        return text

    return reworded(looked.prompt, change)


def _one_class(looked: Looked) -> str | None:
    said = {answer_of(row) for row in looked.shown}
    if not looked.rows.labels or len(looked.shown) < 2 or len(said) > 1:
        return None
    return f"all {len(looked.shown)} examples are of the class {said.pop()!r}."


def _balance(looked: Looked) -> Prompt:
    return replace(looked.prompt, examples="balanced", chosen=None)


def _leaks(looked: Looked) -> str | None:
    held_out = {**_questions(looked.rows.test, "test"), **_questions(looked.rows.validation, "validation")}
    for number, row in enumerate(looked.shown, 1):
        if (place := held_out.get(_squeezed(question_of(row)))) is not None:
            return f"example {number} asks what a {place} asks: its answer is given away."
    text = _squeezed(looked.text)
    told = next((place for asked, place in held_out.items() if len(asked) >= LONG_QUESTION and asked in text), None)
    return None if told is None else f"{looked.where} repeats the question of a {told}."


def _questions(rows: Sequence[Row], part: str) -> dict[str, str]:
    return {_squeezed(question_of(row)): f"{part} row ({row.source})" for row in rows}


def _squeezed(text: str) -> str:
    return " ".join(text.split()).casefold()


def _without_leaks(looked: Looked) -> Prompt | None:
    held_out = {*_questions(looked.rows.test, ""), *_questions(looked.rows.validation, "")}
    chosen = looked.prompt.chosen or []
    left = [pair for pair in chosen if _squeezed(pair[0]) not in held_out]
    if len(left) == len(chosen):
        return None
    return replace(looked.prompt, chosen=left or None, shots=len(left), examples=looked.prompt.examples if left else "")


def _other_language(looked: Looked) -> str | None:
    answers = words.language_of([answer_of(row) for row in looked.rows.training[:200]])
    if looked.rows.labels or answers is None or not looked.text.strip():
        return None
    if (named := words.language_named(looked.text)) is not None:
        return None if named[0] == answers else f"{looked.where} asks for {named[0]}, and the rows answer in {answers}."
    own = words.language_of([looked.text])
    if own is None or own == answers:
        return None
    return f"{looked.where} is in {own}, the rows answer in {answers}, and no language is asked for."


def _name_language(looked: Looked) -> Prompt | None:
    answers = words.language_of([answer_of(row) for row in looked.rows.training[:200]])
    named = words.language_named(looked.text)
    if named is None:
        return with_sentence(looked.prompt, f"Answer in {answers}.")
    return reworded(looked.prompt, lambda text: text.replace(named[1], str(answers)))


def _near_limit(looked: Looked) -> str | None:
    tokens = looked.tokens
    if tokens is None or not tokens.lengths or max(tokens.lengths) < NEAR * tokens.takes:
        return None
    over = sum(length > tokens.takes for length in tokens.lengths)
    if over:
        rows = counted(len(tokens.lengths), "row")
        return f"{over} of {rows} {_are(over)} longer than the {tokens.takes} tokens that {tokens.model} takes."
    return (
        f"the longest row has {max(tokens.lengths)} tokens with its answer, and {tokens.model} takes {tokens.takes}: a "
        "longer one will not fit."
    )


def _fewer(looked: Looked) -> Prompt | None:
    said, half = looked.prompt, looked.prompt.shots // 2
    if not said.shots:
        return None
    return replace(said, shots=half, examples=said.examples if half else "", chosen=(said.chosen or [])[:half] or None)


def _trailing_space(looked: Looked) -> str | None:
    template = looked.prompt.template
    if template is None or template == template.rstrip(" \t"):
        return None
    return (
        "the template ends with a space, which tokenizers join with the word that comes next: answers begin unusually."
    )


def _trimmed(looked: Looked) -> Prompt:
    return replace(looked.prompt, template=(looked.prompt.template or "").rstrip(" \t"))


def _alike(looked: Looked) -> str | None:
    first: dict[Any, list[str]] = {}
    for label in looked.rows.labels:
        begin = looked.tokens.labels[label][0] if looked.tokens else re.split(r"[\W_]", label.casefold())[0]
        first.setdefault(begin, []).append(label)
    groups = [some for some in first.values() if len(some) > 1]
    if not groups:
        return None
    how, (one, other) = "token" if looked.tokens else "word", groups[0][:2]
    number = counted(sum(map(len, groups)), "label")
    return f"{number} begin with the same {how} as another, such as {one!r} and {other!r}."


def _many_tokens(looked: Looked) -> str | None:
    labels = {} if looked.tokens is None else looked.tokens.labels
    long = sorted((-len(ids), label) for label, ids in labels.items() if len(ids) > MANY_TOKENS)
    if not long:
        return None
    assert looked.tokens is not None
    has = "has" if len(long) == 1 else "have"
    number, (length, label) = counted(len(long), "label"), long[0]
    return f"{number} {has} many tokens for {looked.tokens.model}: {label!r} has {-length}."


def _polite(looked: Looked) -> str | None:
    found = words.POLITE.search(looked.raw) if looked.rows.labels else None
    return (
        None if found is None else f"{looked.where} asks as people do ({found[0].strip(' ,')!r}), which invites prose."
    )


def _curt(looked: Looked) -> Prompt | None:
    return reworded(looked.prompt, lambda text: words.without_politeness(text) if words.POLITE.search(text) else text)


RULES: tuple[Rule, ...] = (
    Rule("no instruction", _empty, "Say what is to be done with the text, and how to answer.", _from_nothing),
    Rule("no format", _no_format, "Say it: the label alone, one of a list, a number of sentences.", _ask_for_format),
    Rule("JSON not asked for", _no_json, "Say that the answer is JSON, and which fields it has.",
         lambda looked: with_sentence(looked.prompt, "Answer with JSON alone.")),
    Rule("no context", _no_context, "Say it in a sentence, as in: You sort the mails of a hotel's guests.", _give_role),
    Rule("contradiction", _contradiction, "Ask for one of the two.", _without_clash),
    Rule("unused field", _unused_field, "Put it into the template, or into the column of the text.", _show_pair),
    Rule("labels not named", _labels_not_named, "Name them: {labels} stands for all.",
         lambda looked: with_sentence(looked.prompt, f"The labels are: {LABELS}.")),
    Rule("unknown labels", _unknown_labels, "Write {labels} in place of a list of your own.", _list_labels),
    Rule("one class", _one_class, "Take as many as there are classes, one of each: --examples balanced.", _balance),
    Rule("held-out rows", _leaks, "Take it out, or scores say nothing: show training rows alone.", _without_leaks),
    Rule("other language", _other_language, "Say which language to answer in.", _name_language),
    Rule("near the limit", _near_limit, "Show fewer or shorter examples.", _fewer),
    Rule("trailing space", _trailing_space, "End it without one.", _trimmed),
    Rule("labels begin alike", _alike, "Scored labels are told apart; where answers are written, names that differ at "
         "the beginning are safer: rename them in the file."),
    Rule("long labels", _many_tokens, "Give shorter names in the file, or compare with --scoring mean."),
    Rule("politeness", _polite, "Say what to do, in the imperative.", _curt),
)  # fmt: skip


def look(looked: Looked) -> list[Finding]:
    """All that the rules find, in their order."""
    found: list[Finding] = []
    for rule in RULES:
        if (sentence := rule.look(looked)) is not None:
            fixed = rule.fix(looked)
            fixed = None if fixed == looked.prompt else fixed
            found.append(Finding(rule.name, sentence, rule.advice, fixed))
    return found
