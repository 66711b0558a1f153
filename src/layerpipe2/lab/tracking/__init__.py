"""Runs in MLflow, written through its public client: run records that are copied, and runs that log themselves.

``description`` says what a run is called and tagged, ``metrics`` which numbers it shows, ``database`` opens what is
written to, ``copying`` writes records, and ``logger`` is Lightning's logger of a run that trains.
"""

import os

# MLflow reads these when it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # an error is raised as well
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
