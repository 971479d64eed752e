"""Tasks of lm-evaluation-harness (the library `lm_eval`) over an engine of ours.

lm_eval makes the prompts and the metrics; `harness_tasks` finds its tasks, and `harness_model` is what it takes for
a model. It is not for a user's own rows: those have `suite`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from traceback import walk_tb
from types import ModuleType
from typing import Any

import numpy as np

from tunesmith.core import events
from tunesmith.core.errors import ConfigError, ModelError
from tunesmith.core.events import Report
from tunesmith.evaluate.harness_model import EngineModel, HarnessEngine
from tunesmith.evaluate.harness_tasks import first_line, load_tasks, set_shots, try_first_row
from tunesmith.prompt.contract import Contract

RESAMPLES = 1000  # for standard errors without a formula
NOISY = ("lm_eval", "datasets", "evaluate", "transformers")


def run_harness(
    engine: HarnessEngine,
    contract: Contract,
    tasks: Sequence[str],
    *,
    include: Path | None,
    limit: int | None,
    few_shot: int | None,
    chat: bool,
    report: Report,
) -> dict[str, Any]:
    """Run tasks of lm_eval and return their scores.

    Args:
        engine: the model.
        contract: its tokenizer, and the chat template for `chat`.
        tasks: names of tasks, groups or tags: lm_eval's own (their data come from the hub) or those of `include`.
        include: a YAML task file, or a folder of them. They come before lm_eval's own tasks of the same name.
        limit: most rows of each task; None for all.
        few_shot: worked examples before each question. None leaves the number to the task; a task that is fixed
            at zero keeps it, and so does one that measures the perplexity of plain text.
        chat: put each question through the chat template, worked examples as earlier turns. Tasks that measure the
            perplexity of plain text never do.
        report: hears a `pulse` from time to time.

    Returns:
        Plain values: `lm_eval` (its version), `chat_template` (whether it was applied), and `tasks` and `groups`, by
        name: `rows`, `version`, `few_shot` and `metrics`, each with its `metric`, `filter`, `value`,
        `standard_error` (None where there is none) and `higher_is_better`. A value that is no finite number is None.

    Raises:
        ConfigError: the extra is not installed, an unknown task, one that would run foreign code, that needs what
            the engine cannot do, or whose metrics do not fit its rows.
        MissingError: a task's data or its file cannot be read.
        DataError: an answer to be scored has no token, or too many.
        ModelError: the template refuses a conversation, or a perplexity is too large for a number.
    """
    assert tasks, "no task was named"
    try:
        import lm_eval
        from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
    except ImportError:
        raise ConfigError("tasks of lm_eval need an extra: pip install 'tunesmith[harness]'.") from None
    with quiet(report) as aloud, closed():
        random.seed(DEFAULT_RANDOM_SEED)  # some tasks shuffle their choices; exported scores use these seeds
        np.random.seed(DEFAULT_OTHER_SEED)
        found: Any = load_tasks(tasks, include, aloud)
        model: Any = EngineModel(engine, contract, aloud)
        for task in found["tasks"].values():
            set_shots(task, few_shot)
            try_first_row(task, model.apply_chat_template if chat else None)
            task.set_fewshot_seed(DEFAULT_OTHER_SEED)
        results = evaluate_tasks(model, found, limit, chat)
    named = {name: scores_of(name, results) for name in results["results"]}
    return {
        "lm_eval": lm_eval.__version__,
        "chat_template": chat,
        "tasks": {name: scores for name, scores in named.items() if name in found["tasks"]},
        "groups": {name: scores for name, scores in named.items() if name in found["groups"] and scores["metrics"]},
    }


def evaluate_tasks(model: EngineModel, found: Mapping[str, Any], limit: int | None, chat: bool) -> Any:
    """What lm_eval's own `evaluate` gives; the arguments are those of `run_harness`.

    Raises:
        ConfigError: metrics do not fit the rows of their task.
        ModelError: a perplexity is too large for a number.
    """
    from lm_eval.evaluator import evaluate

    settings = {"apply_chat_template": chat, "fewshot_as_multiturn": chat, "bootstrap_iters": RESAMPLES}
    try:
        lm: Any = model
        return evaluate(lm, dict(found), limit=limit, **settings)
    except OverflowError:
        raise ModelError(
            "a perplexity is too large for a number: the model finds a text all but impossible, or the text has "
            "no spaces between its words. Choose a task that counts bytes (bits_per_byte)."
        ) from None
    except Exception as error:
        if in_model(error):
            raise
        raise ConfigError(
            f"lm_eval cannot compute the metrics of {', '.join(found['tasks'])} ({first_line(error)}). Check "
            "metric_list and filter_list of each."
        ) from None


def in_model(error: Exception) -> bool:
    """Whether it came from the model, not from lm_eval or a task."""
    return any(frame.f_globals.get("__name__") == EngineModel.__module__ for frame, _ in walk_tb(error.__traceback__))


def scores_of(name: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """What lm_eval found for one task or group, as plain values."""
    found, better = results["results"][name], results["higher_is_better"].get(name, {})
    metrics: list[dict[str, Any]] = []
    for key, value in found.items():
        metric, comma, kept = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            metrics.append(
                {
                    "metric": metric,
                    "filter": kept,
                    "value": finite(value),
                    "standard_error": finite(found.get(f"{metric}_stderr,{kept}")),
                    "higher_is_better": better.get(metric),
                }
            )
    return {
        "rows": found.get("sample_len", 0),
        "version": results["versions"].get(name),
        "few_shot": results["n-shot"].get(name),
        "metrics": metrics,
    }


def finite(value: Any) -> float | None:
    """The value as a number that JSON can hold, or None."""
    return float(value) if isinstance(value, int | float | np.number) and math.isfinite(value) else None


@contextlib.contextmanager
def quiet(report: Report) -> Generator[Report]:
    """Keep lm_eval and what it uses from printing.

    Yields:
        `report`, which may print all the same.
    """
    out, err = sys.stdout, sys.stderr

    def aloud(event: events.Event) -> None:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            report(event)

    with contextlib.ExitStack() as stack:
        for name in NOISY:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield aloud


@contextlib.contextmanager
def closed() -> Generator[None]:
    """Keep lm_eval's libraries from counting downloads, fetching metrics, which are programs, and forking."""
    import datasets.config as data_settings

    switches = {"HF_EVALUATE_OFFLINE": "1", "DISABLE_MULTIPROC": "1"}
    with contextlib.ExitStack() as stack:
        for name in switches:
            stack.callback(os.environ.pop, name, None)
        stack.callback(os.environ.update, {name: os.environ[name] for name in switches if name in os.environ})
        os.environ.update(switches)
        set_for_now(stack, data_settings, "HF_UPDATE_DOWNLOAD_COUNTS", False)
        if "evaluate.config" in sys.modules:  # else it reads the switch when a task imports it
            set_for_now(stack, sys.modules["evaluate.config"], "HF_EVALUATE_OFFLINE", True)
        yield


def set_for_now(stack: contextlib.ExitStack, module: ModuleType, name: str, value: bool) -> None:
    """Change a setting of a library until `stack` ends."""
    stack.callback(setattr, module, name, getattr(module, name))
    setattr(module, name, value)
