"""Lightning's advice on loaders, loggers and log intervals, which a first user sees too."""

import pytest

ADVICE = (
    "The '.*_dataloader' does not have many workers",
    "Starting from v1.9.0, `tensorboardX`:UserWarning",
    "The number of training batches .* is smaller than the logging interval",
    "Checkpoint directory .* exists and is not empty",
)


def advised(test):
    """Mark a test in which such advice is no fault."""
    for message in ADVICE:
        test = pytest.mark.filterwarnings(f"ignore:{message}")(test)
    return test
