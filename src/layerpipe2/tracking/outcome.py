"""What is known of a run at its end, beside its numbers."""

from collections.abc import Mapping
from typing import Any


def tags_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Its tags: how it ended, where it ran, and the code that it ran."""
    where = record["provenance"]
    tags = {"status": record["status"], "device": where["device"]}
    tags |= {"commit": str(where["commit"]), "dirty": str(where["dirty"]).lower()}
    tags |= {"mlflow.source.git.commit": where["commit"]} if where["commit"] else {}
    tags |= {"diverged_epoch": str(record["diverged_epoch"])} if record["status"] == "diverged" else {}
    return tags | ({"probed": "true"} if record["reconstruction"] else {})
