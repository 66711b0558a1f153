"""What is known of a run at its end, beside its numbers."""

import csv
import io
from collections.abc import Mapping
from typing import Any

_ERROR = ("stage", "delay", "strategy", "relative_error", "n")


def tags_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Its tags: how it ended, where it ran, and the code that it ran."""
    where = record["provenance"]
    tags = {"status": record["status"], "device": where["device"]}
    if where["commit"]:
        tags |= {"commit": where["commit"], "dirty": str(where["dirty"]).lower()}
        tags |= {"mlflow.source.git.commit": where["commit"]}
    tags |= {"diverged_epoch": str(record["diverged_epoch"])} if record["status"] == "diverged" else {}
    return tags | ({"probed": "true"} if record["reconstruction"] else {})


def files_of(record: Mapping[str, Any], text: str) -> dict[str, str]:
    """Its artifacts, name -> text: the record, which has the given text, and the errors of the rules it measured."""
    if not record["reconstruction"]:
        return {"record.json": text}
    table = io.StringIO()
    writer = csv.DictWriter(table, _ERROR)
    writer.writeheader()
    writer.writerows(record["reconstruction"])
    return {"record.json": text, "reconstruction.csv": table.getvalue()}
