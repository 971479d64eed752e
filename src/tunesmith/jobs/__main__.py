"""`python -m tunesmith.jobs NAME`: the child process of `exec/local`."""

from __future__ import annotations

import sys
from typing import Any

from tunesmith.core.events import Report
from tunesmith.core.names import look_up
from tunesmith.core.quiet import hush_libraries
from tunesmith.exec.child import Stop, heeding, serve


def _finetune(arguments: dict[str, Any], report: Report, stop: Stop) -> dict[str, Any]:
    from tunesmith.jobs.finetune import finetune

    return finetune(arguments, heeding(report, stop), stop)


def _evaluate(arguments: dict[str, Any], report: Report, stop: Stop) -> dict[str, Any]:
    from tunesmith.jobs.evaluate import evaluate_model

    return evaluate_model(arguments, heeding(report, stop))


def _merge(arguments: dict[str, Any], report: Report, stop: Stop) -> dict[str, Any]:
    from tunesmith.jobs.merge import merge

    return merge(arguments, heeding(report, stop))


def _unpack(arguments: dict[str, Any], report: Report, stop: Stop) -> dict[str, Any]:
    from tunesmith.jobs.unpack import unpack

    return unpack(arguments, heeding(report, stop))


def _prompts(arguments: dict[str, Any], report: Report, stop: Stop) -> dict[str, Any]:
    from tunesmith.jobs.prompts import try_prompts

    return try_prompts(arguments, heeding(report, stop))


def _distill(arguments: dict[str, Any], report: Report, stop: Stop) -> dict[str, Any]:
    from tunesmith.jobs.distill import distill

    return distill(arguments, heeding(report, stop))


def _policies(arguments: dict[str, Any], report: Report, stop: Stop) -> dict[str, Any]:
    from tunesmith.jobs.policies import compare_policies

    return compare_policies(arguments, heeding(report, stop))


def _score_prompt(arguments: dict[str, Any], report: Report, stop: Stop) -> dict[str, Any]:
    from tunesmith.jobs.prompt_versions import score_prompt

    return score_prompt(arguments, heeding(report, stop))


def _measure_prompt(arguments: dict[str, Any], report: Report, stop: Stop) -> dict[str, Any]:
    from tunesmith.jobs.prompt_versions import measure_prompt

    return measure_prompt(arguments, heeding(report, stop))


def _lint_prompt(arguments: dict[str, Any], report: Report, stop: Stop) -> dict[str, Any]:
    from tunesmith.jobs.prompt_lint import lint_prompt

    return lint_prompt(arguments, heeding(report, stop))


JOBS = {
    "finetune": _finetune, "evaluate": _evaluate, "merge": _merge, "unpack": _unpack, "prompts": _prompts,
    "distill": _distill, "policies": _policies,
    "score-prompt": _score_prompt, "measure-prompt": _measure_prompt, "lint-prompt": _lint_prompt,
}  # fmt: skip

if __name__ == "__main__":
    hush_libraries()  # the last line of a log explains why a job ended
    sys.exit(serve(look_up(JOBS, sys.argv[1], "job")))
