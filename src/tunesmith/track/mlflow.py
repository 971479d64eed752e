"""MLflow: one run on the tracking server, or in the database, that the recipe names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunesmith.core.errors import TunesmithError
from tunesmith.track.sink import Ending, Note, reason, without_password

ALWAYS = {"MLFLOW_DISABLE_TELEMETRY": "true"}  # or the library reports its use to its makers
UNLESS_SET = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}  # its own cost minutes
STATUS: dict[Ending, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
MOST_METRICS, MOST_FACTS, LONGEST_FACT = 1000, 100, 6000  # what one request may hold


class MlflowSink:
    """Writes metrics and parameters of one run through an `MlflowClient`."""

    def __init__(self, client: Any, run: str, address: str) -> None:
        self.name = f"MLflow at {address}"
        self.run = run
        self._client = client

    def send(self, notes: list[Note]) -> None:
        """Write the notes, in as few requests as MLflow allows. The same note written twice is kept once."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name, float(value), int(note.time * 1000), note.step)
            for note in notes
            for name, value in note.values.items()
        ]
        for part in parts(metrics, MOST_METRICS):
            self._client.log_batch(self.run, metrics=part)
        if facts := {name: value for note in notes for name, value in note.facts.items()}:
            self.describe(facts)

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Write parameters that are not there yet: MLflow allows no change of one, so the first value stays."""
        from mlflow.entities import Param

        known = self._client.get_run(self.run).data.params
        new = [Param(name, written(value)) for name, value in facts.items() if name not in known]
        for part in parts(new, MOST_FACTS):
            self._client.log_batch(self.run, params=part)

    def close(self, ending: Ending) -> None:
        """Write the run's status."""
        self._client.set_terminated(self.run, status=STATUS[ending])


def open_mlflow(uri: str, experiment: str, name: str, facts: Mapping[str, Any], run: str | None) -> MlflowSink:
    """The run on the server, new or gone on with.

    Args:
        uri: of the server or database.
        experiment: made if it is not there.
        name: of a new run.
        facts: its parameters.
        run: id of the run to go on with, if there is one.

    Raises:
        TunesmithError: the package is not installed, or the server does not take the run.
    """
    address = without_password(uri)
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise TunesmithError(
            "track.mlflow: the package is not installed. Run: pip install 'tunesmith[mlflow]'"
        ) from None
    try:
        refuse_silent_database(uri)
        client = MlflowClient(uri)
        sink = MlflowSink(client, run or new_run(client, experiment, name), address)
        if run is not None:
            client.update_run(run, status="RUNNING")
        sink.describe(facts)
    except Exception as error:  # noqa: BLE001  the client raises what its HTTP and database libraries do
        gone = " To begin a new one there, delete track.json in the run's folder." if run else ""
        raise TunesmithError(
            f"track.mlflow = {address}: it does not take the run ({reason(error)}). "
            f"Start the server, mend the address, or set track.mlflow to null.{gone}"
        ) from None
    return sink


def refuse_silent_database(uri: str) -> None:
    """Try a database once, since MLflow itself tries for minutes before it says that one is not there."""
    if not uri.startswith(("http://", "https://", "databricks")):
        from sqlalchemy import create_engine

        engine = create_engine(uri)
        try:
            engine.connect().close()
        finally:
            engine.dispose()


def new_run(client: Any, experiment: str, name: str) -> str:
    """The id of a new run in the experiment, which is made first where needed."""
    found = client.get_experiment_by_name(experiment)
    number = found.experiment_id if found else client.create_experiment(experiment)
    return client.create_run(number, run_name=name).info.run_id


def written(value: Any) -> str:
    """A parameter as MLflow takes it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_FACT else f"{text[: LONGEST_FACT - 4]} ..."


def parts(items: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    """`items` in pieces of at most `most`."""
    for start in range(0, len(items), most):
        yield items[start : start + most]
