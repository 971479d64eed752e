"""The recipe's `data` section."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from tunesmith.core.config import Section, option
from tunesmith.data.read.text import Documents

Names = str | list[str]
WAYS_TO_REPLAY = "must be auto, off, a file of rows, or {prompts: FILE} for the base model's own answers to prompts"


class OwnAnswers(Section):
    """Rows that the base model writes itself: its answers to prompts (self-distillation)."""

    prompts: str = option(..., "File of prompts that the base model answers; `general-prompts` is embedded.")


class DataConfig(Section):
    """Which rows to train on, to validate on during training, and to evaluate on at the end."""

    train: Names | dict[str, float] = option(
        ...,
        "Training rows: a file, folder, pattern such as `data/*.jsonl`, or `hf:owner/name`; or several; or each with "
        "its weight: how often its rows are seen in an epoch. `hotel` is the embedded example.",
    )
    validation: Names | float = option(
        0.1, "Files, or share of the training rows, validated on during training. 0 for none."
    )
    test: Names | float = option(
        0.1, "Files, or share of the training rows, on which base and tuned model are compared at the end. 0 for none."
    )
    format: str | None = option(None, "Row format; found by looking if absent. `tunesmith check` names it.")
    columns: dict[str, str] = option(
        {}, "The file's names for a format's keys, such as {question: Frage, answer: Antwort}."
    )
    label_names: str | list[str] | None = option(
        None,
        "Names of the labels that rows have as numbers, from 0 on: a list, or a file with one a line or a JSON list.",
    )
    documents: Documents = option(
        "paragraphs",
        "What is a row of a text file: a paragraph; a section, that is, paragraphs that follow one another, 1,000 "
        "to 4,000 characters together, by the file's size; or the file. `sections` for `objective.type: pretrain` if "
        "this is absent.",
    )
    train_on: Literal["assistant", "last", "all"] = option(
        "assistant", "Which tokens are trained on: every assistant turn, only the last one, or all tokens."
    )
    system: str | None = option(None, "System message for rows that have none.")
    prompt: str | None = option(
        None,
        "Prompt around every row, of which only the row's own answer is learned: a version that `tunesmith prompts` "
        "has kept, the folder of its versions (the best one), or a text file that is a template.",
    )
    clean: list[Literal["whitespace", "nfc", "boilerplate", "turns"]] = option(
        [],
        "Cleanings, each counted: outer white space, Unicode NFC, an assistant's stock phrases, neighbouring turns of "
        "one role joined.",
    )
    max_length: int | None = option(
        None, "Longest row in tokens; the model's own limit, at most 2048, if absent.", ge=8
    )
    over_long: Literal["fail", "drop", "truncate", "split"] = option(
        "fail",
        "What to do with rows longer than max_length. Truncated rows lose their end; `split` cuts plain text into "
        "several rows, which is what `objective.type: pretrain` does if this is absent, and words with tags into "
        "several sequences of one.",
    )
    stride: int = option(
        128,
        "Tokens that neighbouring windows on a long passage share, of rows with questions; at most half of a window.",
        ge=0,
    )
    bad_rows: Literal["fail", "drop"] = option("fail", "What to do with rows that cannot be read.")
    duplicates: Literal["drop", "keep"] = option("drop", "What to do with rows that are exactly equal to earlier ones.")
    near_duplicates: Literal["auto", "group", "drop", "off"] = option(
        "auto",
        "Rows nearly equal to earlier ones (MinHash): kept on one side of a split, or dropped. `auto` groups them in "
        "files of up to 100,000 rows.",
    )
    replay: str | OwnAnswers = option(
        "auto",
        "General rows that are seen beside yours, so that the model keeps what it knows: a file; `{prompts: FILE}` for "
        "the base model's own answers to prompts; or `off`. `auto` takes tunesmith's own rows for ember, own answers "
        "to tunesmith's own prompts for other models that chat, and nothing beside plain text.",
    )
    replay_share: float = option(
        0.25,
        "Largest share of an epoch's rows that are replayed ones; none is seen twice in an epoch.",
        "Usually 0.1 to 0.5.",
        gt=0,
        lt=1,
    )
    packing: Literal["auto", "off"] = option(
        "auto", "Put several rows into one sequence, each attending only to itself. `off` pads instead."
    )

    @field_validator("replay", mode="before")
    @classmethod
    def _one_way_to_replay(cls, value: Any) -> Any:
        """One sentence for whatever else it is, in place of one for each thing that it could have been."""
        if isinstance(value, dict):
            fine = value.keys() == {"prompts"} and isinstance(value["prompts"], str) and bool(value["prompts"])
        else:
            fine = isinstance(value, OwnAnswers) or (isinstance(value, str) and bool(value.strip()))
        if not fine:
            raise ValueError(WAYS_TO_REPLAY)
        return value
