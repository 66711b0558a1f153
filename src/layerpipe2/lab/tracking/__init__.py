"""Runs in MLflow: one description of how a run looks there, for runs that are going on and for copies of records.

`subject` says what a run is called and tagged, `metrics` which numbers it shows, `book` writes both, `database` opens
MLflow's, `view` prepares its pages, `live` is the Lightning logger. Nothing else in the library imports MLflow, and
`live` lets another process do it, so that training doesn't wait.
"""

import os

# MLflow reads these when it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # an error is raised as well
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
