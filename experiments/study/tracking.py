"""Copy run records to MLflow, for browsing. Nothing reads results back from there.

A record is logged once, however often this runs: its fingerprint is a tag. The runs are made from finished records,
so a training run that is killed leaves nothing here; a copy that was itself killed is closed and made again. A copy
starts when its training run started and lasts as long; those with the tag ``probed`` took longer than training does,
because averages were measured along the way: don't compare their times with those of other runs.
"""

from __future__ import annotations

import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

# MLflow reads these when it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

from mlflow.entities import Experiment, Metric, Param, Run, ViewType
from mlflow.tracking import MlflowClient

from layerpipe2.runs.records import Record, fingerprint, write_json

FINGERPRINT = "layerpipe2.record"
_PAGE = 1000
_METRICS_PER_CALL = 1000


def track(records: list[Record], database: Path, artifacts: Path) -> int:
    """Log every record that isn't logged yet; return how many were new.

    Args:
        records: finished runs.
        database: SQLite file, made if need be.
        artifacts: folder of the records' copies; MLflow keeps its absolute path.
    """
    client = MlflowClient(f"sqlite:///{database.resolve()}")
    new = 0
    for name in sorted({_name(record) for record in records}):
        experiment = _experiment(client, name, artifacts)
        known = _logged(client, experiment)
        for record in records:
            if _name(record) == name and fingerprint(record) not in known:
                _log(client, experiment, record)
                new += 1
    return new


def experiments(records: list[Record], database: Path) -> dict[str, str]:
    """Name -> identity in MLflow of the experiments that hold these records' copies."""
    client = MlflowClient(f"sqlite:///{database.resolve()}")
    found = (client.get_experiment_by_name(name) for name in sorted({_name(record) for record in records}))
    return {experiment.name: str(experiment.experiment_id) for experiment in found if experiment is not None}


def _name(record: Record) -> str:
    """Of the experiment that a record belongs to: one per data set."""
    return f"layerpipe2/{record['config']['dataset']}"


def _experiment(client: MlflowClient, name: str, artifacts: Path) -> str:
    found: Experiment | None = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    return str(client.create_experiment(name, artifact_location=artifacts.resolve().as_uri()))


def _logged(client: MlflowClient, experiment: str) -> set[str]:
    """Fingerprints of the finished copies. One that never finished is closed and removed."""
    done, token = set(), None
    while True:
        page = client.search_runs([experiment], run_view_type=ViewType.ACTIVE_ONLY, max_results=_PAGE, page_token=token)
        for run in page:
            if run.info.status == "FINISHED":
                done.add(run.data.tags.get(FINGERPRINT, ""))
            elif FINGERPRINT in run.data.tags:
                client.set_terminated(run.info.run_id, status="KILLED")
                client.delete_run(run.info.run_id)
        token = page.token
        if not token:
            return done


def _log(client: MlflowClient, experiment: str, record: Record) -> None:
    config = record["config"]
    name = f"{config['network']} g{config['group_size']} {config['strategy']} s{config['seed']}"
    start, end = _times(record)
    run: Run = client.create_run(experiment, start_time=start, run_name=name, tags=_tags(record))
    identity = run.info.run_id
    status = "KILLED"
    try:
        metrics = _metrics(record)
        params = [Param(key, str(value)) for key, value in _params(record).items()]
        for start in range(0, len(metrics), _METRICS_PER_CALL):
            client.log_batch(identity, metrics[start : start + _METRICS_PER_CALL], params if not start else ())
        with tempfile.TemporaryDirectory() as folder:
            write_json(Path(folder) / "record.json", record)
            client.log_artifact(identity, str(Path(folder) / "record.json"))
        status = "FINISHED"
    finally:
        client.set_terminated(identity, status=status, end_time=end)


def _times(record: Record) -> tuple[int, int]:
    """When training started and ended, in ms since 1970."""
    where = record["provenance"]
    start = datetime.fromisoformat(where["started"]).timestamp()
    return round(1000 * start), round(1000 * (start + where["wall_time_s"]))


def _tags(record: Record) -> dict[str, str]:
    where = record["provenance"]
    tags = {FINGERPRINT: fingerprint(record), "status": record["status"], "device": where["device"]}
    probed = {"probed": "true"} if record["reconstruction"] else {}
    return tags | probed | {"commit": str(where["commit"]), "dirty": str(where["dirty"])}


def _params(record: Record) -> dict[str, Any]:
    config: dict[str, Any] = record["config"]
    given = {name: value for name, value in config.items() if name != "delays" or value is not None}
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
