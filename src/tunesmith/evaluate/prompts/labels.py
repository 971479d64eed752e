"""Labels as answers: how likely a local model finds each, and which one a written answer names.

A label's score is the log probability that the model answers with it: of all its words and of the token that ends the
answer. That is plain (`sum`), or divided by the number of tokens (`mean`): plain favours short labels, the mean those
whose later words follow from the first. Or what the label has anyway is taken away (`pmi`): its log probability after
the same prompt with a question that says nothing (Holtzman et al., 2021, arXiv 2104.08315; the prompt with its examples
is the premise here, where theirs is a few words for a domain). Without the token that ends it no label could be less
likely than a longer one that begins with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from tunesmith.core.errors import ConfigError, ModelError
from tunesmith.infer.generator import RowScore
from tunesmith.prompt.contract import Contract, Rendered
from tunesmith.prompt.messages import Conversation, Message

Scoring = Literal["sum", "mean", "pmi"]
SCORINGS: dict[str, str] = {
    "sum": "log probability of the whole label",
    "mean": "log probability of the whole label a token",
    "pmi": "log probability of the whole label, less that after a question that says nothing",
}


def endings_of(contract: Contract, asked: Conversation, labels: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """Ids of what is asked, and of each label as the answer to it with the token that ends it.

    Raises:
        ModelError: the template refuses the conversation, or shows two labels as the same.
    """
    last = replace(contract, train_on="last")
    drafts = [last.draft((*asked, Message("assistant", label))) for label in labels]
    prompts: set[tuple[int, ...]] = set()
    endings: list[list[int]] = []
    for rendered in last.render_many(drafts):
        if not isinstance(rendered, Rendered):
            raise rendered
        [(begin, end)] = rendered.spans
        prompts.add(tuple(rendered.ids[:begin]))
        endings.append(rendered.ids[begin:end].tolist())
    if len(prompts) > 1:
        raise ModelError("under this chat template a question is written otherwise before another answer.")
    twins = [place for place, ending in enumerate(endings) if endings.index(ending) < place]
    if twins:
        first = labels[endings.index(endings[twins[0]])]
        raise ModelError(f"the labels {first!r} and {labels[twins[0]]!r} are the same words to the model. Rename one.")
    return list(prompts.pop()), endings


def alike(labels: Sequence[str], endings: Sequence[Sequence[int]]) -> tuple[int, tuple[str, str]] | None:
    """How many labels begin with the same token as another, and the first two; None if there are none."""
    first: dict[int, list[str]] = {}
    for label, ending in zip(labels, endings, strict=True):
        first.setdefault(ending[0], []).append(label)
    groups = [names for names in first.values() if len(names) > 1]
    return (sum(map(len, groups)), (groups[0][0], groups[0][1])) if groups else None


def label_sums(scores: Sequence[RowScore]) -> list[float]:
    """The log probability of each label."""
    return [-score.loss for score in scores]


def label_scores(
    sums: Sequence[float], endings: Sequence[Sequence[int]], scoring: Scoring, neutral: Sequence[float] = ()
) -> list[float]:  # fmt: skip
    """What is compared.

    Args:
        sums: log probability of each label.
        endings: its tokens.
        scoring: how.
        neutral: of `pmi`, the log probabilities after a question that says nothing.
    """
    if scoring == "mean":
        return [one / len(ending) for one, ending in zip(sums, endings, strict=True)]
    return list(sums) if scoring == "sum" else [one - other for one, other in zip(sums, neutral, strict=True)]


def folded(text: str) -> str:
    """A text without case and punctuation: its letters and digits."""
    return "".join(filter(str.isalnum, text.casefold()))


def named(answer: str, labels: Sequence[str]) -> int | None:
    """The place of the label that an answer is, case and punctuation aside; None if it is none of them."""
    wanted = folded(answer)
    if not wanted:  # signs alone
        return next((place for place, label in enumerate(labels) if label.strip() == answer.strip()), None)
    return next((place for place, label in enumerate(labels) if folded(label) == wanted), None)


def refuse_twins(labels: Sequence[str], model: str) -> None:
    """Refuse labels that a written answer could not tell apart.

    Raises:
        ConfigError: two differ in case and punctuation alone.
    """
    seen: dict[str, str] = {}
    for label in labels:
        first = seen.setdefault(folded(label), label)
        if first is not label:
            raise ConfigError(
                f"the labels {first!r} and {label!r} differ in case or punctuation alone, and answers that {model} "
                "writes are matched to labels without them. Rename one."
            )
