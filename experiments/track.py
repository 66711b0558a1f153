"""Copy the run records to MLflow for browsing (`make ui`). Nothing reads results back from there.

A record is copied once, however often this runs: its fingerprint is a tag. The copies are made from finished records,
so a training run that is killed leaves nothing here; a copy that was itself killed is closed and made again, and a
database that was not finished is made anew. Of several processes one copies at a time, the others wait. A copy
starts when its training run started and lasts as long; those with the tag ``probed`` took longer than training does,
because averages were measured along the way: don't compare their times with those of other runs.
"""

import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

# MLflow reads these when it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # an error is raised as well

from filelock import FileLock, Timeout
from mlflow.entities import Metric, Param, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient

from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.cli.options import within
from layerpipe2.errors import UserError
from layerpipe2.runs.records import (
    Record,
    fingerprint,
    output_file,
    read_records,
    writable_folder,
    write_json,
    write_record,
)

FINGERPRINT = "layerpipe2.record"
_TABLE = "http://127.0.0.1:{port}/#/experiments/{identity}?workflowType=machine_learning"
"""An experiment's table of runs. Without the query MLflow may show it as one of generative AI, with empty traces."""
_METRICS_PER_CALL = 1000


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the records, copy the new ones, say where to look at them.

    Raises:
        UserError: if there are none or one is damaged, or if database or artifacts can't be written.
    """
    parser = Parser(prog="python -m experiments.track", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("results/runs"), help="default: %(default)s")
    parser.add_argument("--database", type=Path, default=Path("mlflow.db"), help="default: %(default)s")
    parser.add_argument("--artifacts", type=Path, default=Path("mlartifacts"), help="default: %(default)s")
    parser.add_argument("--summary", type=Path, help="JSON file that counts the records, for DVC")
    parser.add_argument(
        "--port", type=within(int, 1, 65535), help="print links for a server that will listen there on 127.0.0.1"
    )
    options = parser.parse_args(arguments)
    records = read_records(options.runs)
    new, tables = track(records, options.database, options.artifacts)
    if options.summary:
        write_json(options.summary, {"records": len(records)})
    print(f"{new} of {len(records)} runs were new to {options.database}")
    for name, identity in tables.items() if options.port is not None else ():
        print(f"{name}: {_TABLE.format(port=options.port, identity=identity)}")


def track(records: list[Record], database: Path, artifacts: Path) -> tuple[int, dict[str, str]]:
    """Copy every record that isn't there yet.

    Args:
        records: finished runs.
        database: SQLite file, made if need be.
        artifacts: folder of the records' copies; MLflow keeps its absolute path.

    Returns:
        How many were new, and name -> identity in MLflow of the experiments: one per data set.

    Raises:
        UserError: if the database or the folder can't be written, or the database isn't whole.
    """
    writable_folder(artifacts)
    with _opened(database, artifacts) as client:
        return _track(client, records, artifacts)


@contextmanager
def _opened(database: Path, artifacts: Path) -> Iterator[MlflowClient]:
    """The database for this process alone. If need be it is made first, aside, so that it is whole or not there."""
    lock = FileLock(f"{output_file(database)}.lock")
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        print(f"waiting for the process that copies to {database}", file=sys.stderr, flush=True)
        held = lock.acquire()
    with held:
        try:
            client = _whole(database, artifacts)
        except Exception as error:  # SQLAlchemy's, Alembic's, MLflow's
            raise _refused(database, error) from None
        try:
            yield client
        except (OSError, MlflowException) as error:
            raise _refused(database, error) from None


def _refused(database: Path, error: Exception) -> UserError:
    reason = str(error).strip().partition("\n")[0]
    return UserError(
        f"database {database}: {reason}; make room, or delete it: it holds nothing but copies of the records"
    )


def _whole(database: Path, artifacts: Path) -> MlflowClient:
    if not database.exists() or not database.stat().st_size:
        _make(database, artifacts)
    with closing(sqlite3.connect(database)) as connection:
        (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if state != "ok":
        raise sqlite3.DatabaseError(state)
    client = MlflowClient(_uri(database))
    client.search_experiments(max_results=1)  # looks at its tables
    return client


def _make(database: Path, artifacts: Path) -> None:
    new = database.with_name(f"{database.name}.new")
    for rest in (new, Path(f"{new}-journal")):  # of a process that was killed here
        rest.unlink(missing_ok=True)
    SqlAlchemyStore(_uri(new), artifacts.resolve().as_uri()).engine.dispose()
    new.replace(database)


def _uri(database: Path) -> str:
    return f"sqlite:///{database.resolve()}"


def _track(client: MlflowClient, records: list[Record], artifacts: Path) -> tuple[int, dict[str, str]]:
    new, identities = 0, dict[str, str]()
    for dataset in sorted({record["config"]["dataset"] for record in records}):
        name = f"layerpipe2/{dataset}"
        found = client.get_experiment_by_name(name)
        place = artifacts.resolve().as_uri()
        identity = found.experiment_id if found else client.create_experiment(name, artifact_location=place)
        identities[name] = str(identity)
        known = set(_finished(client, identities[name]))
        for record in records:
            if record["config"]["dataset"] == dataset and fingerprint(record) not in known:
                _copy(client, identities[name], record)
                new += 1
    return new, identities


def _finished(client: MlflowClient, experiment: str) -> Iterator[str]:
    """Fingerprints of the finished copies. One that never finished is closed and removed."""
    token: str | None = ""
    while token is not None:
        page = client.search_runs([experiment], run_view_type=ViewType.ACTIVE_ONLY, page_token=token or None)
        for run in page:
            if run.info.status == "FINISHED":
                yield run.data.tags.get(FINGERPRINT, "")
            elif FINGERPRINT in run.data.tags:
                client.set_terminated(run.info.run_id, status="KILLED")
                client.delete_run(run.info.run_id)
        token = page.token or None


def _copy(client: MlflowClient, experiment: str, record: Record) -> None:
    config, where = record["config"], record["provenance"]
    name = f"{config['network']} g{config['group_size']} {config['strategy']} s{config['seed']}"
    start = datetime.fromisoformat(where["started"]).timestamp()
    times = round(1000 * start), round(1000 * (start + where["wall_time_s"]))  # ms since 1970
    tags = {FINGERPRINT: fingerprint(record), "status": record["status"]}
    tags |= {key: str(where[key]) for key in ("device", "commit", "dirty")}
    tags |= {"probed": "true"} if record["reconstruction"] else {}
    run: Run = client.create_run(experiment, start_time=times[0], run_name=name, tags=tags)
    identity, status = run.info.run_id, "KILLED"
    try:
        metrics = _metrics(record)
        params = [Param(key, str(value)) for key, value in _params(record).items()]
        for first in range(0, len(metrics), _METRICS_PER_CALL):
            client.log_batch(identity, metrics[first : first + _METRICS_PER_CALL], params if not first else ())
        with tempfile.TemporaryDirectory() as folder:
            write_record(Path(folder) / "record.json", record)
            client.log_artifact(identity, str(Path(folder) / "record.json"))
        status = "FINISHED"
    finally:
        client.set_terminated(identity, status=status, end_time=times[1])


def _params(record: Record) -> dict[str, Any]:
    given = {name: value for name, value in record["config"].items() if name != "delays" or value is not None}
    return given | {
        "num_stages": len(record["delays"]),
        "stage_delays": " ".join(map(str, record["delays"])),
        "history_copies": round(record["history_copies"], 6),
    }


def _metrics(record: Record) -> list[Metric]:
    """Per epoch, at step = epoch; the test's at the last epoch. A value that isn't finite is left out.

    A rule's reconstruction errors have step = delay, one value per stage: the last is that of the longest delay.
    """
    rows = [(row["epoch"], name, value) for row in record["epochs"] for name, value in row.items() if name != "epoch"]
    last = record["epochs"][-1]["epoch"]
    rows += [(last, f"test_{name}", record["test"][name]) for name in ("loss", "accuracy")]
    rows += [(last, name, record["provenance"][name]) for name in ("wall_time_s", "train_time_s")]
    rows += [(last, "diverged_epoch", record["diverged_epoch"])]
    errors = record["reconstruction"]
    rows += [(row["delay"], f"reconstruction_error/{row['strategy']}", row["relative_error"]) for row in errors]
    return [Metric(name, float(value), 0, step) for step, name, value in rows if value is not None]


if __name__ == "__main__":
    sys.exit(run_command("experiments.track", main, None))
