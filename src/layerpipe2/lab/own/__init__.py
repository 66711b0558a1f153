"""A network of one's own as a run: a function says network, data and loss, the settings of a run say the rest."""

from layerpipe2.errors import UserError
from layerpipe2.lab.runs.config import RunConfig

_FIELDS = RunConfig.model_json_schema()["properties"]
SETTINGS = frozenset(
    name for name, schema in _FIELDS.items() if schema["section"] in ("pipeline", "optimizer", "run")
) - {"group_size", "probe_every"}
"""Settings of a run that a network of one's own takes; the others are about the study's networks and data."""


def check_precision(config: RunConfig) -> None:
    """Refuse double precision, which is up to the function.

    Raises:
        UserError: saying so.
    """
    if config.precision == "float64":
        raise UserError("precision is 'float64'; let your network and your data have it, and leave it out")
