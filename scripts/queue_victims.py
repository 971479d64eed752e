"""Those whom scripts/kill_jobs.py kills: a worker, and somebody who submits.

    python scripts/queue_victims.py work|send --records URL --blobs FOLDER ...     as kill_jobs.py starts them

Either may be given a point at which it kills itself: the n-th statement to the database, or before or after a call.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
LEASE, LOOK = 1.5, 0.05  # seconds
CALLS = {"claim": "worker", "beat": "worker", "take_back": "worker", "keep": "attempt", "commit_checkpoint": "attempt",
         "end": "attempt", "bring": "attempt"}  # fmt: skip
STEPS, EVERY = 60, 4  # of a counting job
PAUSE = {"count": 0.06, "stops": 0.25}  # seconds of one of its steps
RECIPE = """
model: {{base: '{home}/base'}}
method: {{type: lora, dropout: 0.1}}
data: {{train: hotel, test: 0, validation: 0.02, max_length: 512, replay: ember-general}}
optim: {{learning_rate: 1.0e-3, steps: 12, batch_size: 8}}
output: {{checkpoint_every: 2, name: run}}
precision: fp32
seed: {seed}
"""


def set_trap(where: Path, point: str | None, number: int) -> None:
    """Kill this process at the n-th statement to the database, or around the n-th of the named calls."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    import tunesmith.exec.attempt
    import tunesmith.exec.worker

    doing, seen = ["start"], Counter[str]()

    def reached(name: str) -> None:
        seen[name] += 1
        if name == point and seen[name] == number:
            with where.open("a") as file:
                file.write(f"{name} ({doing[-1]})\n" if name == "statement" else f"{name}\n")
            os.kill(os.getpid(), signal.SIGKILL)

    def around(module: Any, name: str) -> None:
        call = getattr(module, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            reached(f"before {name}")
            doing.append(name)
            try:
                return call(*arguments, **options)
            finally:
                doing.pop()
                reached(f"after {name}")

        setattr(module, name, wrapped)

    for name, module in CALLS.items():
        around(getattr(tunesmith.exec, module), name)
    event.listen(Engine, "before_cursor_execute", lambda *_: reached("statement"))
    event.listen(Engine, "commit", lambda _: reached("statement"))


def work(options: argparse.Namespace) -> None:
    from tunesmith.exec.local import LocalExecutor
    from tunesmith.exec.worker import Settings, Worker, heeding_signals
    from tunesmith.store.stores import open_stores

    real = time.time
    time.time = lambda: real() + options.clock
    stores = open_stores(options.records, options.blobs)
    set_trap(Path(options.where), options.point, options.number)
    train = (sys.executable, "-m", "tunesmith.jobs")
    count = (sys.executable, str(SCRIPTS / "counting_job.py"))
    program = train if options.kind == "train" else count
    settings = Settings(
        slots=1 if options.kind == "train" else 2, lease=LEASE if options.kind != "train" else 4 * LEASE, look=LOOK,
        work=Path(options.work), executor=lambda cores: LocalExecutor(cores=cores, program=program),
    )  # fmt: skip
    worker = Worker(stores, settings, lambda sentence: print(f"{real():.3f} {sentence}", flush=True))
    with heeding_signals(worker):
        worker.run()


def send(options: argparse.Namespace) -> None:
    """Submit each job of the round under its key, and write down each id once it is acknowledged."""
    from tunesmith.exec.executor import Job
    from tunesmith.exec.queue.submit import Submission, submit
    from tunesmith.jobs.submit import submit_recipe
    from tunesmith.store.stores import keep, open_stores
    from tunesmith.train.recipe import read_recipe

    stores = open_stores(options.records, options.blobs)
    set_trap(Path(options.where), options.point, options.number)
    acknowledged, home = Path(options.acknowledged), Path(options.home)
    with acknowledged.open("a") as file:
        for number in range(options.jobs):
            job = Job("count", {"steps": STEPS, "every": EVERY, "pause": PAUSE.get(options.kind, 0.0)}, stoppable=True)
            wanted = Submission(
                job, label="run", project=f"project-{number % 2}", key=f"key-{number}", most_fruitless=1000
            )
            if options.kind == "train":
                recipe = home / f"recipe-{number}.yaml"
                recipe.write_text(RECIPE.format(home=home, seed=number))
                id = submit_recipe(stores, read_recipe(recipe), wanted, "exported")
            else:
                start = home / f"start-{number}.txt"
                start.write_text(f"job {number}")
                inputs = keep(stores, {"inputs/start.txt": start})
                id = submit(stores.records, Submission(**{**vars(wanted), "inputs": inputs}))
            file.write(json.dumps({"number": number, "id": id}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=("work", "send"))
    for name in ("records", "blobs", "where", "kind", "work", "acknowledged", "home", "point"):
        parser.add_argument(f"--{name}")
    for name in ("number", "clock", "jobs"):
        parser.add_argument(f"--{name}", type=int, default=0)
    options = parser.parse_args()
    {"work": work, "send": send}[options.role](options)


if __name__ == "__main__":
    main()
