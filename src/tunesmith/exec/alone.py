"""A job that has no folder of its own: run to its end, with a log that stays only when something went wrong."""

from __future__ import annotations

import os
import shutil

from tunesmith.core.events import Json, Report
from tunesmith.core.files import home, make_folder
from tunesmith.exec.executor import Executor, Job
from tunesmith.exec.supervise import result_of, supervise


def run_alone(executor: Executor, job: Job, report: Report) -> Json:
    """What a job made.

    Raises:
        TunesmithError: as `result_of` does.
    """
    folder = make_folder(home() / "logs" / f"{job.name}-{os.getpid()}", "logs")
    result = result_of(supervise(executor, job, folder, report))
    shutil.rmtree(folder, ignore_errors=True)
    return result
