"""What is replayed beside the user's rows: decided once, before training, and said in one line."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.core import events
from tunesmith.core.errors import ConfigError
from tunesmith.core.events import Report
from tunesmith.core.files import open_new
from tunesmith.data.config import OwnAnswers
from tunesmith.data.prompts import read_prompts
from tunesmith.data.replay import load_replay, refuse_none
from tunesmith.data.source import SourceFile, find_files
from tunesmith.data.split import Splits
from tunesmith.jobs.own_answers import TOGETHER, Answers, Speaker, key_of, own_answers
from tunesmith.jobs.preflight import REWARDED
from tunesmith.model.export import find_model
from tunesmith.model.load import answering, load, read_config
from tunesmith.model.memory import to_answer
from tunesmith.model.methods.continue_from import starting_adapter
from tunesmith.prompt.base import EMBEDDED, Base
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.messages import Conversation
from tunesmith.train.objectives.table import objective_for
from tunesmith.train.recipe import Recipe, longest_row
from tunesmith.train.weights.ranks import Ranks

OWN_ROWS = "ember-general"  # general rows for the embedded model
OWN_PROMPTS = "general-prompts"  # that any other is asked
AT_MOST = 0.5  # of what the training takes, that a base model's answers may take unasked
AS_TRAINED = 3.0  # trained tokens that take about as long as one that is generated
KEPT = ("chat", "text")  # kinds of rows beside which others are replayed
USUAL = 100  # tokens of an answer, about


@dataclass(frozen=True)
class Source:
    """Where replayed rows come from: files, or prompts that the base answers; neither, and why.

    Attributes:
        name: what the user would call it.
        prompts: what the base model is asked, where it writes the rows itself.
        why_none: a sentence, where nothing is replayed.
    """

    name: str = ""
    prompts: Sequence[Conversation] = ()
    why_none: str = ""


def with_replay(
    recipe: Recipe, folder: Path, base: Base, contract: Contract, splits: Splits, ranks: Ranks, report: Report
) -> Splits:
    """The splits with what is replayed beside their training rows, if anything is; one line says what.

    A base model's own answers are made by the first process, and kept in the run's folder.

    Raises:
        DataError: what the recipe names cannot be read, or nothing of it is left.
    """
    source = choose_source(recipe, splits)
    if source.why_none:
        report(events.Replay(f"nothing is replayed: {source.why_none}"))
    if not source.name:
        return splits
    files, what = find_files(source.name), "general rows"
    if source.prompts:
        written, what = answered(source, recipe, folder, base, contract, ranks, report), "answers of the base model"
        if not written.stat().st_size:
            sentence = f"the base model ends too few of its answers to {source.name}. data.replay=FILE names rows."
            report(events.Replay(f"nothing is replayed: {sentence}"))
            return splits
        files = [SourceFile(str(written), written)]
    held_out = [splits.validation, splits.test]
    longest, reads = longest_row(recipe, base), objective_for(recipe.objective, read_config(base.folder)).reads
    replay = load_replay(files, what, recipe.data, contract, longest, splits.train, held_out, recipe.seed, reads)
    if recipe.data.replay != "auto":
        replay = refuse_none(replay, source.name)
    if replay is None:
        report(events.Replay(f"nothing is replayed: no row of {source.name} is left beside yours."))
        return splits
    report(events.Replay(replay.sentence()))
    return replace(splits, replay=replay)


def choose_source(recipe: Recipe, splits: Splits) -> Source:
    """Where replayed rows come from, as the recipe says, or else by what the base and the user's rows are."""
    wanted = recipe.data.replay
    if recipe.objective.type in REWARDED:  # what it says itself is all that it learns from
        if wanted not in ("auto", "off"):
            raise ConfigError(f"data.replay and objective.type = {recipe.objective.type} do not go together. Leave it "
                              "out: objective.beta holds the model near what it was.")  # fmt: skip
        return Source()
    if wanted not in ("auto", "off") and splits.kind.name not in KEPT:
        raise ConfigError(f"data.replay: beside {splits.kind.words} nothing is replayed. Leave it out.")
    if isinstance(wanted, OwnAnswers):
        return Source(wanted.prompts, read_prompts(wanted.prompts)[0])
    if wanted != "auto":
        return Source() if wanted == "off" else Source(wanted)
    if splits.kind.name not in KEPT:
        return Source(why_none=f"beside {splits.kind.words} there is nothing to keep.")
    if splits.kind.name == "text":
        return Source(why_none="beside plain text it is not done unasked. data.replay=FILE names rows to replay.")
    if recipe.model.template is not None:
        return Source(
            why_none=f"{recipe.model.base} was given its chat template here, so it has no answers of its own that it "
            "could keep. data.replay=FILE names rows to replay."
        )
    if recipe.model.base == EMBEDDED:
        return Source(OWN_ROWS)
    if recipe.sharding == "full":
        return Source(why_none="a sharded base may not fit into one process, which would have to answer prompts.")
    prompts = read_prompts(OWN_PROMPTS)[0]
    count = affordable(recipe, splits, len(prompts))
    if not count:
        return Source(
            why_none=f"this run is so short that answering prompts would take longer than half of it. "
            f"data.replay='{{prompts: {OWN_PROMPTS}}}' does it all the same."
        )
    return Source(OWN_PROMPTS, prompts[:count])


def affordable(recipe: Recipe, splits: Splits, most: int) -> int:
    """How many prompts a base model is asked unasked: whole parts, within a share of what the training takes.

    Counted in tokens and not in seconds, so that a run made again elsewhere decides the same.
    """
    rows = recipe.optim.epochs * len(splits.train)
    if recipe.optim.steps is not None:
        rows = recipe.optim.steps * recipe.optim.batch_size
    tokens = rows * float(splits.train.lengths.mean())
    within = AT_MOST * tokens / (USUAL * AS_TRAINED)
    wanted = rows * recipe.data.replay_share / (1 - recipe.data.replay_share)  # more would never be seen
    return min(most, int(within) // TOGETHER * TOGETHER, -(-int(wanted) // TOGETHER) * TOGETHER)


def answered(
    source: Source, recipe: Recipe, folder: Path, base: Base, contract: Contract, ranks: Ranks, report: Report
) -> Path:
    """The file in the run's folder that holds the base model's answers; it is empty if it ends too few of them."""
    speaker = speaker_of(recipe, base, contract)
    # A run that goes on elsewhere goes on with the answers that it has.
    path = folder / f"replayed-{key_of(speaker, source.prompts, here=False)[:16]}.jsonl"
    if ranks.leads and not path.exists():
        report(events.Phase(f"the base model answers {len(source.prompts)} prompts of {source.name}"))
        answers = own_answers(speaker, source.prompts, longest_row(recipe, base), report)
        report(events.Replay(told(answers)))
        with open_new(path) as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in answers.rows)
    while not path.exists():  # the parent ends this process too, should the first one die
        time.sleep(0.1)
    return path


def told(answers: Answers) -> str:
    """How many answers there are, and what became of the others."""
    lost = "".join(f"; {count} left out: {why}" for why, count in answers.lost.most_common())
    return f"the base model gave {len(answers.rows)} answers to {answers.asked} prompts{lost}."


def speaker_of(recipe: Recipe, base: Base, contract: Contract) -> Speaker:
    """The model as training starts from it: the base, with the adapter that is trained further if there is one."""
    adapter = starting_adapter(getattr(recipe.method, "continue_from", None))

    spec = to_answer(base.folder, answering(recipe.device), recipe.model.quantize)

    def load_it() -> Any:
        if adapter is None:
            tokens = tuple(recipe.model.add_tokens)  # those of the contract, as yet untrained
            return load(base.folder, replace(spec, new_tokens=tokens)).model
        return find_model(str(getattr(recipe.method, "continue_from", None))).load_as(spec)

    computed = (str(spec.dtype), spec.device, *(() if spec.quantize == "none" else (spec.quantize,)))
    return Speaker(f"{base.fingerprint()} {adapter or ''}", load_it, contract, computed)
