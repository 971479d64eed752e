"""Scores that compare a text with an expression, another text or a number."""

from __future__ import annotations

import re

from tunesmith.core.errors import ConfigError
from tunesmith.score.rewards.config import NumberScore, RegexScore, SimilarityScore, StringScore
from tunesmith.score.rewards.sample import Sample
from tunesmith.score.rewards.score import Items, Score, filled_reference, one_by_one
from tunesmith.score.rewards.similar import SIMILARITIES
from tunesmith.score.rewards.template import Template, Unscored, Worthless, template

# 12; -3.5; 1,234.5; .5; 2e-3. A sign belongs to it only where no word or number stands before: 5-3 ends with 3.
NUMBER = re.compile(r"(?<![\w.])[-+\u2212]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))(?:\.\d+)?(?:[eE][-+]?\d+(?!\w))?")


def make_regex(config: RegexScore, where: str) -> Score:
    """Whether an expression matches.

    Raises:
        ConfigError: it is none.
    """
    try:
        pattern = re.compile(config.pattern)
    except re.error as error:
        raise ConfigError(f"{where}.pattern = {config.pattern!r}: cannot be read ({error}).") from None
    found = pattern.search if config.match == "search" else pattern.fullmatch
    given = template(config.input, f"{where}.input")
    return Score(one_by_one(lambda sample: float(found(given.fill(sample)) is not None)), (given,))


def make_string(config: StringScore, where: str) -> Score:
    """Whether two texts are equal, or one holds the other."""
    given, wanted = template(config.input, f"{where}.input"), template(config.reference, f"{where}.reference")

    def plain(text: str) -> str:
        text = text.casefold() if config.ignore_case else text
        return text.strip() if config.strip else text

    def score(sample: Sample) -> float:
        reference, said = plain(filled_reference(wanted, sample)), plain(given.fill(sample))
        if config.operation == "contains":
            return float(reference in said)
        return float((said == reference) == (config.operation == "equal"))

    return Score(one_by_one(score), (given, wanted))


def last_number(text: str) -> float | None:
    """The last number in a text; None if it holds none. Commas part thousands."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "").replace("\u2212", "-")) if found else None


def make_number(config: NumberScore, where: str) -> Score:
    """Whether the last number is the one of the reference. An answer without a number is a wrong one."""
    given, wanted = template(config.input, f"{where}.input"), template(config.reference, f"{where}.reference")

    def right_number(sample: Sample) -> float:
        text = filled_reference(wanted, sample)
        if (number := last_number(text)) is None:
            raise Unscored(f"{where}.reference: {text.strip()[:60]!r} holds no number", "reference")
        return number

    def score(sample: Sample) -> float:
        right, said = right_number(sample), last_number(given.fill(sample))
        return float(said is not None and abs(said - right) <= config.tolerance)

    def refuse(items: Items) -> None:
        """Rows none of whose references holds a number, where that does not hang on the answer."""
        if not items or any(place[0] != "item" for place in wanted.places):
            return
        for item in items:
            try:
                right_number(Sample((), "", "stop", item))
                return
            except (Unscored, Worthless):
                continue
        raise ConfigError(f"{where}.reference: {wanted.text} holds a number in no row. Name a field that does.")

    return Score(one_by_one(score), (given, wanted), refuse)


def make_similarity(config: SimilarityScore, where: str) -> Score:
    """How alike two texts are."""
    alike = SIMILARITIES[config.metric]
    given, wanted = template(config.input, f"{where}.input"), template(config.reference, f"{where}.reference")

    def score(sample: Sample) -> float:
        return alike(given.fill(sample), filled_or_refused(wanted, sample))

    return Score(one_by_one(score), (given, wanted))


def filled_or_refused(wanted: Template, sample: Sample) -> str:
    """The reference; one that is empty even as it is written has nothing in common with any answer."""
    if not (text := filled_reference(wanted, sample)).strip():
        raise Unscored(f"{wanted.where}: is empty", "reference")
    return text
