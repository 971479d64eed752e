"""The scores that a recipe's `rewards` names: one section a kind. No torch.

Texts in braces are templates: `{{item.x}}` is a field of the row, `{{sample.output_text}}` the answer.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tunesmith.core.config import Section, option

NAMED = re.compile(r"[A-Za-z][\w .-]*")
WEIGHT = option(1.0, "What the score is multiplied by before all are added; below 0 where it is a fault.", "-1 to 1.")
NAME = option(
    None, "What reports call it; the type if absent. Two of one type need names.", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"
)
INPUT = option("{{sample.output_text}}", "What is looked at: a template, by default the answer.")
REFERENCE = option("{{item.reference}}", "What it is compared with: a template, by default the row's own answer.")


class RegexScore(Section):
    """1 where a regular expression matches, else 0."""

    type: Literal["regex"] = "regex"
    weight: float = WEIGHT
    name: str | None = NAME
    pattern: str = option(..., "The expression, as Python reads it.", "'(?i)thank you'.", min_length=1)
    match: Literal["search", "full"] = option("search", "Whether it may stand anywhere, or must be all there is.")
    input: str = INPUT


class StringScore(Section):
    """1 where a text is the reference, or holds it, else 0."""

    type: Literal["string"] = "string"
    weight: float = WEIGHT
    name: str | None = NAME
    operation: Literal["equal", "not_equal", "contains"] = option("equal", "How the two must stand to each other.")
    ignore_case: bool = option(False, "Whether `A` is `a`.")
    strip: bool = option(True, "Leave out white space at the beginning and the end of both.")
    input: str = INPUT
    reference: str = REFERENCE


class NumberScore(Section):
    """1 where the last number of the answer is the last one of the reference, else 0."""

    type: Literal["number"] = "number"
    weight: float = WEIGHT
    name: str | None = NAME
    tolerance: float = option(1e-6, "How far apart the two may be.", ge=0)
    input: str = INPUT
    reference: str = REFERENCE


class JsonScore(Section):
    """1 where the answer is a JSON object or list, and fits a schema if there is one, else 0."""

    type: Literal["json"] = "json"
    weight: float = WEIGHT
    name: str | None = NAME
    json_schema: dict[str, Any] | str | None = option(None, "A JSON schema, or the name of a file that holds one.")
    input: str = INPUT


class LengthScore(Section):
    """1 where the answer has a length within limits; outside, less and less, down to 0."""

    type: Literal["length"] = "length"
    weight: float = WEIGHT
    name: str | None = NAME
    unit: Literal["words", "characters", "tokens"] = option("words", "What is counted.")
    least: int = option(0, "Shortest length that is worth 1.", ge=0)
    most: int | None = option(None, "Longest length that is worth 1; any if absent.", ge=0)
    fall: int | None = option(
        None, "How far outside it is worth 0; if absent, that is at length 0, and at twice `most`.", ge=1
    )
    tokenizer: str | None = option(None, "The model whose tokens are counted; of the unit tokens.")
    input: str = INPUT

    @model_validator(mode="after")
    def _limits_fit(self) -> LengthScore:
        if not self.least and self.most is None:
            raise ValueError("give least, most or both: every length would be worth the same")
        if self.most is not None and self.most < self.least:
            raise ValueError(f"give most at least the value of least, {self.least}")
        if (self.unit == "tokens") != (self.tokenizer is not None):
            raise ValueError("give tokenizer, the name of a model, with unit tokens, and not without")
        return self


Metric = Literal[
    "bleu", "gleu", "chrf", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l", "meteor", "token_f1",
    "fuzzy",
]  # fmt: skip


class SimilarityScore(Section):
    """How alike answer and reference are, 0 to 1."""

    type: Literal["similarity"] = "similarity"
    weight: float = WEIGHT
    name: str | None = NAME
    metric: Metric = option("rouge_l", "How that is measured.")
    input: str = INPUT
    reference: str = REFERENCE


RUBRIC = "Rate how good the answer is: right, to the point and polite.\n\nQuestion:\n{{prompt}}\n\nAnswer:\n"
RUBRIC += "{{sample.output_text}}"
ROLES = ("system", "user", "assistant")


class JudgeScore(Section):
    """What another model says that the answer is worth."""

    type: Literal["judge"] = "judge"
    weight: float = WEIGHT
    name: str | None = NAME
    model: str = option(
        ..., "Who judges: https://host/v1#model for a server that speaks as OpenAI's; or a model of this machine.",
        min_length=1,
    )  # fmt: skip
    rubric: str | list[dict[str, str]] = option(
        RUBRIC,
        "What it is asked: a template, in which {{prompt}} is the question; or turns, each with role and content. How "
        "to answer is added.",
        min_length=1,
    )
    least: float = option(0.0, "Lowest number that it may say.")
    most: float = option(1.0, "Highest number that it may say.")
    labels: dict[str, float] | None = option(
        None, "Words that it may say instead of a number, with what each is worth.", min_length=1
    )
    temperature: float = option(0.0, "Of its answers.", ge=0, le=2)
    max_new_tokens: int = option(512, "Longest answer of the judge, its thoughts among them.", ge=1)
    concurrency: int = option(8, "Questions to its server at once.", ge=1, le=256)
    timeout: float = option(60.0, "Seconds for one answer of its server.", gt=0)

    @model_validator(mode="after")
    def _can_be_asked(self) -> JudgeScore:
        if self.most <= self.least:
            raise ValueError(f"give most a value above least, {self.least:g}")
        for turn in self.rubric if isinstance(self.rubric, list) else []:
            if turn.keys() != {"role", "content"} or turn["role"] not in ROLES:
                raise ValueError(f"give each turn of the rubric a role, one of {', '.join(ROLES)}, and a content")
        return self


class ModelScore(Section):
    """What a reward model says that the answer is worth."""

    type: Literal["model"] = "model"
    weight: float = WEIGHT
    name: str | None = NAME
    model: str = option(..., "A run with objective.type=reward, or the folder that one has exported.")


class FunctionScore(Section):
    """What a Python function of yours returns: `def grade(sample, item) -> float`."""

    type: Literal["function"] = "function"
    weight: float = WEIGHT
    name: str | None = NAME
    file: str = option(..., "The Python file. It is run only where `--allow-function` names it too.", min_length=1)
    function: str = option("grade", "Its name in that file.", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")


Simple = (
    RegexScore | StringScore | NumberScore | JsonScore | LengthScore | SimilarityScore | JudgeScore | ModelScore
    | FunctionScore
)  # fmt: skip
SimpleConfig = Annotated[Simple, Field(discriminator="type")]


class CombinedScore(Section):
    """Scores put together by a formula."""

    type: Literal["combined"] = "combined"
    weight: float = WEIGHT
    name: str | None = NAME
    scores: dict[str, SimpleConfig] = option(
        ..., "The scores, by the names that the formula has for them.", min_length=1
    )
    formula: str = option(
        ..., "Arithmetic over these names.", "'right * (0.8 + 0.2 * polite)'.", min_length=1, max_length=10_000
    )

    @model_validator(mode="after")
    def _weighed_by_the_formula(self) -> CombinedScore:
        for name, one in self.scores.items():
            if not NAMED.fullmatch(name):
                raise ValueError(f"give {name!r} a name that begins with a letter")
            if one.weight != 1:
                raise ValueError(f"give the weight of {name} in the formula")
        return self


ScoreConfig = Annotated[Simple | CombinedScore, Field(discriminator="type")]
