"""Runs that cannot teach anything are refused before the first step; runs that may mislead are spoken of."""

from __future__ import annotations

from tunesmith.core.errors import ConfigError, DataError, ModelError, TooFewRows
from tunesmith.core.names import counted
from tunesmith.data.dataset import Subset
from tunesmith.data.split import Splits
from tunesmith.jobs.tasks.table import EVALUATIONS
from tunesmith.jobs.tasks.task import NO_BASELINE, baselines_of
from tunesmith.jobs.trained import pool_of
from tunesmith.model.methods.table import METHODS, method_for
from tunesmith.prompt.base import Base
from tunesmith.prompt.bases.record import notes_of
from tunesmith.prompt.contract import Contract
from tunesmith.train import optimizers
from tunesmith.train.objective import Objective
from tunesmith.train.recipe import Recipe

# Objectives whose models have a head, or a decoder, beside the body.
WITH_HEAD = frozenset({"classify", "token_classify", "extract", "seq2seq", "reward"})
WRITING = frozenset({"seq2seq", "pretrain"})  # of those that do not chat, whose heads give words
PREFERRING = frozenset({"dpo", "simpo", "orpo", "cpo", "kto", "bco", "reward"})  # that learn from preferences
REWARDED = frozenset({"grpo", "rloo", "ppo"})  # and from rewards of their own answers
WITHOUT_HEAD = ("prompt_tuning", "p_tuning", "prefix_tuning", "adapter")  # what they save has no place for a head


def refuse_what_does_not_fit(recipe: Recipe) -> None:
    """Refuse settings that do not go together, before anything is read.

    Raises:
        ConfigError: with what to change.
    """
    for refuse in (
        refuse_in_parts, refuse_optimizer, refuse_merge, refuse_quantized, refuse_with_head, refuse_with_preferences,
        refuse_pool,
    ):  # fmt: skip
        refuse(recipe)


def refuse_in_parts(recipe: Recipe) -> None:
    """Refuse a method that needs all weights where each process would hold a part of them.

    Raises:
        ConfigError: it does.
    """
    method = method_for(recipe.method)
    if recipe.sharding == "full" and recipe.processes > 1 and recipe.perturb.type == "pgd":
        raise ConfigError("perturb.type = pgd and sharding = full do not go together. Take freelb, or sharding=none.")
    if recipe.sharding == "full" and recipe.processes > 1 and recipe.model.add_tokens:
        raise ConfigError("model.add_tokens and sharding = full do not go together. Set sharding=none.")
    if recipe.sharding == "full" and recipe.processes > 1 and method.whole(recipe.method):
        raise ConfigError(
            f"method.type = {recipe.method.type} with these settings needs all weights in one process, and with "
            "sharding=full each holds a part of them. Set sharding=none."
        )


def refuse_pool(recipe: Recipe) -> None:
    """Refuse a layer more beside a method whose result is kept without its base, which has no such layer.

    Raises:
        ConfigError: it would be.
    """
    if pool_of(recipe) == "own":
        return
    if recipe.method.type != "full":
        raise ConfigError(
            f"objective.pool = mean puts a layer on the base, and what method.type = {recipe.method.type} leaves is "
            "put on a base without it. Set method.type=full, or objective.pool=own."
        )
    if recipe.sharding == "full" and recipe.processes > 1:
        raise ConfigError("objective.pool = mean and sharding = full do not go together. Set sharding=none.")


def refuse_optimizer(recipe: Recipe) -> None:
    """Refuse an optimizer that cannot work here, or leaves a method without what it needs.

    Raises:
        ConfigError: it does.
    """
    in_parts = recipe.sharding == "full" and recipe.processes > 1
    optimizers.refuse_optimizer(recipe.optim.optimizer, in_parts)
    if recipe.method.type == "adalora" and recipe.optim.optimizer.type == "schedule_free":
        raise ConfigError(
            "method.type = adalora and optim.optimizer = schedule_free do not go together: AdaLoRA reads gradients, "
            "which this optimizer writes over. Take optim.optimizer=adamw."
        )


def refuse_merge(recipe: Recipe) -> None:
    """Refuse to merge what no weight can hold.

    Raises:
        ConfigError: it is a prompt.
    """
    method = method_for(recipe.method)
    if recipe.output.merge and method.base_untouched and "merge" not in method.can:
        raise ConfigError(
            f"output.merge: {method.label} adds nothing that could be folded into the base's weights. Set "
            "output.merge=false, or take another method.type (`tunesmith methods`)."
        )


def refuse_quantized(recipe: Recipe) -> None:
    """Refuse to quantise a base for a method that cannot train beside one.

    Raises:
        ConfigError: with the methods that can.
    """
    kind, method = recipe.model.quantize, method_for(recipe.method)
    if kind == "none":
        return
    init = getattr(recipe.method, "init", "zero")
    if "quantize" not in method.can:
        able = [name for name, one in METHODS.items() if "quantize" in one.can]
        raise ConfigError(
            f"model.quantize = {kind} and method.type = {recipe.method.type} do not go together: beside a quantised "
            f"base train one of {', '.join(able)}; or set model.quantize=none."
        )
    if recipe.method.type == "lora" and init in ("pissa", "olora", "eva"):
        raise ConfigError(
            f"model.quantize = {kind} and method.init = {init} do not go together: it starts from the base's own "
            "numbers. Take init zero, gaussian or orthogonal; or set model.quantize=none."
        )
    if recipe.precision != "fp32" and (
        recipe.method.type == "ia3" or (kind, recipe.method.type) == ("int8", "adalora")
    ):
        raise ConfigError(
            f"model.quantize = {kind} and method.type = {recipe.method.type} go together in fp32 alone, in which peft "
            "computes them: set precision=fp32, or take another method."
        )
    if kind == "int8" and getattr(recipe.method, "dora", False):
        raise ConfigError("model.quantize = int8 and method.dora do not go together. Take nf4, or leave out dora.")
    if recipe.sharding == "full" and recipe.processes > 1:
        raise ConfigError(f"model.quantize = {kind} and sharding = full do not go together. Set sharding=none.")


def refuse_with_head(recipe: Recipe) -> None:
    """Refuse what a model that does not chat cannot be trained with.

    Raises:
        ConfigError: it says which two do not go together.
    """
    if recipe.objective.type in WITH_HEAD:
        both = f"objective.type = {recipe.objective.type} and"
        refuse_beside_head(recipe, both)
        if recipe.evaluate.general_ability not in ("auto", "off"):
            raise ConfigError(f"{both} evaluate.general_ability do not go together: it does not chat. Leave it out.")
        if recipe.objective.type == "seq2seq" and recipe.perturb.type != "none":
            raise ConfigError(f"{both} perturb.type = {recipe.perturb.type} do not go together yet. Leave it out.")


def refuse_with_preferences(recipe: Recipe) -> None:
    """Refuse what learning from preferences is not made for.

    Raises:
        ConfigError: it says which two do not go together.
    """
    if recipe.objective.type not in PREFERRING | REWARDED:
        return
    both = f"objective.type = {recipe.objective.type} and"
    if recipe.data.train_on == "all":
        raise ConfigError(f"{both} data.train_on = all do not go together: answers are learned from, not prompts. "
                          "Leave it out.")  # fmt: skip
    if recipe.perturb.type != "none":
        raise ConfigError(f"{both} perturb.type = {recipe.perturb.type} do not go together yet. Leave it out.")
    if recipe.sharding == "full" and recipe.processes > 1:
        raise ConfigError(f"{both} sharding = full do not go together yet. Set sharding=none.")


def refuse_beside_head(recipe: Recipe, both: str) -> None:
    """Refuse methods that do not save a head, and what is not made for models with one.

    Args:
        recipe: of the run.
        both: how a sentence begins that says what does not go together.

    Raises:
        ConfigError: it says which two do not.
    """
    if recipe.method.type in WITHOUT_HEAD:
        able = ", ".join(name for name in METHODS if name not in WITHOUT_HEAD)
        raise ConfigError(f"{both} method.type = {recipe.method.type} do not go together. Take one of {able}.")
    if recipe.model.add_tokens:
        raise ConfigError(f"{both} model.add_tokens do not go together yet. Leave it out.")
    if recipe.objective.type in WRITING and recipe.model.quantize != "none":
        raise ConfigError(f"{both} model.quantize do not go together yet. Leave it out.")
    if recipe.sharding == "full" and recipe.processes > 1:
        raise ConfigError(f"{both} sharding = full do not go together yet. Set sharding=none.")


def refuse_measures(recipe: Recipe, objective: Objective) -> None:
    """Refuse to judge validations by what the objective does not say, and baselines that there are not.

    Raises:
        ConfigError: with what there is; or the base is an encoder, which something that is asked for does not fit.
    """
    if objective.task in ("masked", "spans"):
        what = "an encoder" if objective.task == "masked" else "an encoder with a decoder"
        refuse_beside_head(recipe, f"{recipe.model.base} is {what}, with which objective.type = pretrain and")
    if objective.padded:  # an encoder with a decoder
        for name, value in (("perturb.type", recipe.perturb.type), ("model.quantize", recipe.model.quantize)):
            if value != "none":
                raise ConfigError(f"{name} = {value}: not yet for an encoder with a decoder, as the base is. Set none.")
    refuse_prompt(recipe, objective)
    known, metric, kind = objective.metrics, recipe.evaluate.metric, recipe.objective.type
    if metric not in known:
        raise ConfigError(f"evaluate.metric = {metric}: with objective.type = {kind} it is one of {', '.join(known)}.")
    if objective.task in EVALUATIONS:
        baselines_of(EVALUATIONS[objective.task], recipe.evaluate.baseline)
    elif recipe.evaluate.baseline != NO_BASELINE:
        raise ConfigError(f"evaluate.baseline is not for objective.type = {kind}. Leave it out.")


def refuse_prompt(recipe: Recipe, objective: Objective) -> None:
    """Refuse a prompt around rows of a model that does not chat, and one that would be learned itself.

    Raises:
        ConfigError: with what to change.
    """
    if recipe.data.prompt is None:
        return
    if "chat" not in objective.reads:
        raise ConfigError(
            f"data.prompt and objective.type = {recipe.objective.type} do not go together: a prompt is put around "
            "questions that a chat model answers. Take objective.type=sft, or leave data.prompt out."
        )
    if recipe.data.train_on == "all":
        raise ConfigError(
            "data.prompt and data.train_on = all do not go together: the prompt and its examples would be learned by "
            "heart. Take data.train_on=assistant."
        )


def refuse_accuracy_of_numbers(recipe: Recipe, splits: Splits) -> None:
    """Refuse to judge by accuracy what has none.

    Raises:
        ConfigError: the rows have numbers.
    """
    if recipe.evaluate.metric == "accuracy" and splits.train.dataset.facts.get("labels") == {}:
        raise ConfigError("evaluate.metric = accuracy: the rows have numbers and no classes. Take loss.")


def refuse_what_cannot_teach(recipe: Recipe, splits: Splits, contract: Contract) -> None:
    """Everything that would end as a model that learned nothing, or something else than was meant.

    What that is of the rows themselves, their kind knows.

    Raises:
        DataError: rows that together could not teach; no row fell into the validation part.
        ConfigError: something is to be judged by validation rows, and there are none; or by what such rows have not.
    """
    refuse_accuracy_of_numbers(recipe, splits)
    facts = splits.train.dataset.facts
    splits.kind.refuse(splits.train, facts, contract)
    for part, rows in (("validation", splits.validation), ("test", splits.test)):
        if len(rows):
            splits.kind.refuse_held_out(rows, facts, part)
    _refuse_no_validation(recipe, splits)


def _refuse_no_validation(recipe: Recipe, splits: Splits) -> None:
    if len(splits.validation):
        return
    if recipe.data.validation and not _lost_by_length(splits):
        raise DataError(
            f"no row fell into the validation part (data.validation = {recipe.data.validation}). Name a file, take a "
            "larger share, or set data.validation=0 to train without watching."
        )
    for name, wanted in (("patience", recipe.evaluate.patience), ("export", recipe.evaluate.export == "best")):
        if wanted:
            raise ConfigError(f"evaluate.{name} needs validation rows. Set data.validation to a share or a file.")


def _lost_by_length(splits: Splits) -> bool:
    """Whether a part may be without rows because rows that are held out are never cut."""
    return bool(splits.train.dataset.column("cut").any())


def refuse_too_few(splits: Splits, least: int) -> None:
    """Refuse a file with fewer training rows than whoever asked for the run has set.

    Raises:
        TooFewRows: in the words that OpenAI's users know.
    """
    if (count := len(splits.train)) < least:
        raise TooFewRows(f"Training file has {count} example(s), but must have at least {least} examples.")


def refuse_unknown_tokens(splits: Splits, contract: Contract, words: int) -> None:
    """Refuse rows with tokens that the model has no embedding for: its tokenizer is of another model, or was added to.

    Args:
        splits: all rows.
        contract: whose tokenizer made their ids.
        words: embeddings that the model has.

    Raises:
        ModelError: with the first such row and token.
    """
    for rows in (splits.train, splits.validation, splits.test):
        if not len(rows) or rows.dataset.largest_id < words:
            continue
        for row in rows:
            if (largest := max(int(one.ids.max()) for one in row.sequences if len(one.ids))) >= words:
                token = contract.tokenizer.convert_ids_to_tokens(largest)
                raise ModelError(
                    f"{row.source}: holds the token {token!r}, number {largest}, and the model has embeddings for "
                    f"{words}. Its tokenizer has {len(contract.tokenizer)} tokens: some were added and the embeddings "
                    "not resized. Resize them (`model.resize_token_embeddings(len(tokenizer))` in transformers) and "
                    "save both, or take a model.template that does without them."
                )


def doubts(recipe: Recipe, splits: Splits, base: Base | None = None) -> list[str]:
    """What a user should know about base model, rows and split before believing a score."""
    sentences = list(notes_of(base.folder)) if base else []
    sentences += [
        f"{counted(count, 'row')} of {ledger.file} worth a look ({code.replace('_', ' ')}), the first in line "
        f"{first.source.line}: {first.found} {first.advice}"
        for ledger in splits.ledgers
        for code, count in ledger.by_code("warning").items()
        for first in [next(one for one in ledger.entries if (one.outcome, one.code) == ("warning", code))]
    ]
    sentences += splits.kind.doubts(splits.train, splits.train.dataset.facts)
    sentences += _breaking_off(splits.train)
    if leaked := splits.leaked():
        sentences.append(f"{leaked} of {counted(len(splits.test), 'row')} held out ask what training rows ask.")
    if recipe.data.validation and not splits.validation:
        sentences.append(
            "no row is left to validate on during training: those that were drawn are too long, and rows held out are "
            "never cut. Raise data.max_length, or name a file with data.validation."
        )
    if recipe.data.test and not splits.test:
        sentences.append(
            "no row fell into the test part, so base and tuned model are not compared. Name a file with data.test."
        )
    return sentences


def _breaking_off(rows: Subset) -> list[str]:
    cut = int(rows.dataset.column("cut")[rows.places].sum())
    if not cut:
        return []
    found = f"data.over_long=truncate cut the end off {cut} of {counted(len(rows), 'row')} to train on"
    if cut == len(rows):
        return [f"{found}: the model will not learn to stop. Raise data.max_length, or set data.over_long=drop."]
    return [f"{found}: from them the model does not learn to stop."]
