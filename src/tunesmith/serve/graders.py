"""OpenAI's graders as scores of ours. Those that run code are refused: no client runs code here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from tunesmith.score.rewards.config import NAMED, CombinedScore, JudgeScore, ScoreConfig, SimilarityScore, StringScore
from tunesmith.serve.errors import refused

Judge = Callable[[str], str]  # of a model's name as clients have it, what a section names; raises ApiError

LONGEST = 16_384  # characters of a text that is compared: some metrics take the product of two lengths
Text = Annotated[str, Field(max_length=LONGEST)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
OPERATIONS: Mapping[str, tuple[Any, bool]] = {  # with whether case is ignored
    "eq": ("equal", False), "ne": ("not_equal", False), "like": ("contains", False), "ilike": ("contains", True),
}  # fmt: skip
ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
USUAL = 512  # tokens of a judge, where nobody says
MOST = 8192  # that it may be given


class StringCheck(BaseModel):
    """Compare two texts."""

    type: Literal["string_check"]
    name: Name
    input: Text
    reference: Text
    operation: Literal["eq", "ne", "like", "ilike"]


class TextSimilarity(BaseModel):
    """Say how alike two texts are."""

    type: Literal["text_similarity"]
    name: Name
    input: Text
    reference: Text
    evaluation_metric: Literal[
        "cosine", "fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5",
        "rouge_l",
    ]  # fmt: skip


class Turn(BaseModel):
    """What a model that grades is told."""

    role: Literal["user", "assistant", "system", "developer"]
    content: Text | dict[str, Any] | list[Text | dict[str, Any]]


class SamplingParams(BaseModel):
    """How a model that grades answers. Other keys are passed over."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_completions_tokens: Annotated[int, Field(ge=1, le=MOST)] | None = None


class ScoreModel(BaseModel):
    """Let a model say a number."""

    type: Literal["score_model"]
    name: Name
    model: Name
    input: Annotated[list[Turn], Field(min_length=1, max_length=100)]
    range: Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=2, max_length=2)] | None = (
        None
    )
    sampling_params: SamplingParams | None = None


class LabelModel(BaseModel):
    """Let a model say a label."""

    type: Literal["label_model"]
    name: Name
    model: Name
    input: Annotated[list[Turn], Field(min_length=1, max_length=100)]
    labels: Annotated[list[Name], Field(min_length=1, max_length=100)]
    passing_labels: list[str]


class Python(BaseModel):
    """Run a program."""

    type: Literal["python"]
    name: Name
    source: str


Single = Annotated[StringCheck | TextSimilarity | ScoreModel | LabelModel | Python, Field(discriminator="type")]


class Multi(BaseModel):
    """Put graders together by a formula. One grader alone may stand without its name, as the client has it."""

    type: Literal["multi"]
    name: Name
    graders: Single | Annotated[dict[str, Single], Field(min_length=1, max_length=100)]
    calculate_output: Annotated[str, Field(min_length=1, max_length=10_000)]

    @property
    def by_name(self) -> dict[str, Any]:
        """The graders, as the formula calls them."""
        return self.graders if isinstance(self.graders, dict) else {self.graders.name: self.graders}


Grader = Annotated[StringCheck | TextSimilarity | ScoreModel | LabelModel | Python | Multi, Field(discriminator="type")]


def score_of(grader: Any, judge: Judge) -> ScoreConfig:
    """The section of a recipe that says the same.

    Args:
        grader: one of `Grader`.
        judge: what a section calls the model of a name.

    Raises:
        ApiError: there is nothing of ours that does the same, or no such model.
    """
    match grader:
        case StringCheck():
            operation, ignore_case = OPERATIONS[grader.operation]
            return StringScore(
                operation=operation,
                ignore_case=ignore_case,
                strip=False,
                input=grader.input,
                reference=grader.reference,
            )
        case TextSimilarity():
            if grader.evaluation_metric == "cosine":
                raise refused(
                    "evaluation_metric = cosine: it compares embeddings, and no model here makes any.", "grader"
                )
            metric: Any = "fuzzy" if grader.evaluation_metric == "fuzzy_match" else grader.evaluation_metric
            return SimilarityScore(metric=metric, input=grader.input, reference=grader.reference)
        case ScoreModel():
            return _by_number(grader, judge)
        case LabelModel():
            return _by_label(grader, judge)
        case Multi():
            return _combined(grader, judge)
        case _:
            message = (
                "type = python: no client runs code on this server. Take another grader, or several by multi; its "
            )
            raise refused(
                f"{message}operator can run a function of theirs: tunesmith train --allow-function.", "grader"
            )


def _by_number(grader: ScoreModel, judge: Judge) -> JudgeScore:
    least, most = grader.range or (0.0, 1.0)
    if not least < most:
        raise refused(f"range = {grader.range}: the first must be below the second.", "grader")
    asked = grader.sampling_params or SamplingParams()
    return JudgeScore(
        model=judge(grader.model), rubric=_rubric(grader.input), least=least, most=most,
        temperature=asked.temperature or 0.0, max_new_tokens=asked.max_completions_tokens or USUAL,
    )  # fmt: skip


def _by_label(grader: LabelModel, judge: Judge) -> JudgeScore:
    if unknown := set(grader.passing_labels) - set(grader.labels):
        raise refused(f"passing_labels: {min(unknown)!r} is none of labels.", "grader")
    labels = {label: float(label in grader.passing_labels) for label in grader.labels}
    return JudgeScore(model=judge(grader.model), rubric=_rubric(grader.input), labels=labels, max_new_tokens=USUAL)


def _rubric(turns: list[Turn]) -> list[dict[str, str]]:
    return [{"role": ROLES[turn.role], "content": _text(turn.content)} for turn in turns]


def _text(content: Any) -> str:
    parts = content if isinstance(content, list) else [content]
    texts: list[str] = []
    for part in parts:
        if isinstance(part, dict):
            if part.get("type") not in ("input_text", "output_text", "text") or not isinstance(part.get("text"), str):
                raise refused("input: models here read text alone.", "grader")
            part = part["text"]
        texts.append(part)
    return "\n".join(texts)


def _combined(grader: Multi, judge: Judge) -> CombinedScore:
    for name in grader.by_name:
        if not NAMED.fullmatch(name):
            raise refused(f"graders: {name!r} is no name for a formula. Begin with a letter.", "grader")
    scores: dict[str, Any] = {name: score_of(one, judge) for name, one in grader.by_name.items()}
    return CombinedScore(scores=scores, formula=grader.calculate_output)
