"""Find tasks of lm_eval by name, its own or those of task files, and refuse those that run foreign code."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.core import events
from tunesmith.core.errors import ConfigError, MissingError, TunesmithError
from tunesmith.core.events import Report
from tunesmith.core.names import did_you_mean


def load_tasks(names: Sequence[str], include: Path | None, report: Report) -> dict[str, dict[str, Any]]:
    """lm_eval's objects for the named tasks, and for the groups among them, as its `evaluate` takes them.

    Raises:
        ConfigError: an unknown name, a task that would run foreign code, or one that lacks a library.
        MissingError: its data or its file cannot be read.
    """
    from lm_eval.tasks import TaskManager

    report(events.Pulse("loading tasks", 0, len(names)))
    own = included(include)
    manager = TaskManager(include_defaults=not complete(names, own))
    index = manager.task_index
    index.update(own)
    found: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
    for done, name in enumerate(names, 1):
        if name not in index:
            raise ConfigError(f"unknown task {name!r}: {hint(name, index, own)}")
        for config in settings_of(name, index):
            refuse_code(str(config.get("task", name)), config)
        loaded = load_task(manager, name)
        for kind, entries in found.items():
            entries.update(loaded.get(kind, {}))
        report(events.Pulse("loading tasks", done, len(names)))
    for name, task in found["tasks"].items():  # a group may have set it for its members
        refuse_code(name, {"unsafe_code": getattr(task, "UNSAFE_CODE", False)})
    return found


def load_task(manager: Any, name: str) -> Mapping[str, Any]:
    """A task, group or tag, with the data.

    Raises:
        ConfigError: it lacks a library.
        MissingError: its data or its file cannot be read.
    """
    try:
        return manager.load([name])
    except ImportError as error:
        raise ConfigError(f"the task {name!r} needs a library that is not installed ({first_line(error)}).") from None
    except Exception as error:  # noqa: BLE001  lm_eval, `datasets` and the task's own code raise a hundred kinds
        raise MissingError(
            f"the task {name!r} cannot be loaded ({first_line(error)}). lm_eval's own tasks fetch their data from the "
            "hub; metrics that are programs are never fetched. A task file can name local files: dataset_path: json."
        ) from None


def included(include: Path | None) -> dict[str, Any]:
    """The entries of the task files in a folder, or of one file.

    Raises:
        MissingError: there is no such file, or it is no task file.
    """
    from lm_eval.tasks._index import TaskIndex
    from lm_eval.tasks._yaml_loader import load_yaml

    if include is None:
        return {}
    if include.is_dir():
        return TaskIndex.build([include])
    index: dict[str, Any] = {}
    try:
        TaskIndex.process_cfg(load_yaml(include, resolve_func=False), include, index)
    except Exception as error:  # noqa: BLE001  any broken file of the user's ends here
        raise MissingError(f"{include}: no task file of lm_eval's kind ({first_line(error)}).") from None
    return index


def complete(names: Sequence[str], own: Mapping[str, Any]) -> bool:
    """Whether task files define all that is named: lm_eval's own are thousands, which take seconds to read."""
    return all(name in own and all("dataset_path" in config for config in settings_of(name, own)) for name in names)


def hint(name: str, index: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """What an unknown task may have meant. lm_eval's own have thousands of names, which are never all shown."""
    sentence = did_you_mean(name, index)
    if sentence.startswith("did"):
        return sentence
    return did_you_mean(name, own) if own else "`lm-eval ls tasks` lists those that lm_eval has."


def settings_of(item: str | Mapping[str, Any], index: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The settings of each task behind a name: of the task itself, or of the members of a group or tag."""
    entry = index.get(item if isinstance(item, str) else item.get("group") or item.get("task", ""))
    config: Mapping[str, Any] = {} if entry is None else entry.cfg or {"task": sorted(entry.tags)}
    if not isinstance(item, str):
        config = {**config, **item}
    if isinstance(config.get("task"), list):
        for member in config["task"]:
            yield from settings_of(member, index)
    else:
        yield config


def refuse_code(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a task that runs what the model writes, or whose metric is a program on the hub.

    Raises:
        ConfigError: it is one.
    """
    from lm_eval.api.registry import metric_registry

    if config.get("unsafe_code"):
        raise ConfigError(f"the task {name!r} runs code that the model writes, which tunesmith does not do.")
    if config.get("process_results") is not None or config.get("output_type", "generate_until") != "generate_until":
        return  # lm_eval computes the metrics of these by itself, or the task does; the list only names them
    for wanted in config.get("metric_list") or []:
        metric = wanted.get("metric")
        if not isinstance(metric, str) or Path(metric).is_absolute():  # a function of the task's own
            continue
        if wanted.get("hf_evaluate") is True or metric not in metric_registry:
            raise ConfigError(
                f"the task {name!r} measures {metric!r}, which lm_eval would download as a program, and tunesmith does "
                "not do that. Choose a metric that lm_eval has."
            )


def set_shots(task: Any, few_shot: int | None) -> None:
    """Set how many worked examples a task shows, by lm_eval's own rule."""
    asked = task.get_config("num_fewshot")
    if asked == 0 or task.OUTPUT_TYPE == "loglikelihood_rolling":
        shots = 0
    else:
        shots = (asked or 0) if few_shot is None else few_shot
    task.set_config(key="num_fewshot", value=shots)


def try_first_row(task: Any, chat_template: Callable[..., str] | None) -> None:
    """Make the prompt of a task's first row, so that a mistake in the task is told from one of ours.

    Raises:
        ConfigError: lm_eval cannot make it.
        ModelError: the chat template refuses it.
    """
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError(f"the task {task.task_name!r} shows images or sound, which the engine does not take.")
    chat = chat_template is not None
    states = random.getstate(), np.random.get_state()  # whatever the task draws here is to be drawn again
    try:
        task.set_fewshot_seed(0)
        task.build_all_requests(
            limit=1, apply_chat_template=chat, fewshot_as_multiturn=chat, chat_template=chat_template
        )
    except TunesmithError:
        raise
    except Exception as error:  # noqa: BLE001  whatever the templates and functions of a task raise
        shots = task.get_config("num_fewshot")
        raise ConfigError(
            f"the task {task.task_name!r} cannot make a prompt of its first row with {shots} worked examples "
            f"({first_line(error)}). Check its columns, and that there are as many examples."
        ) from None
    random.setstate(states[0])
    np.random.set_state(states[1])


def first_line(error: Exception) -> str:
    """The start of what an exception says, to stand in a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
