"""A small run on the digits, which are loaded once."""

import pytest

from layerpipe2.data import load
from layerpipe2.runs.config import RunConfig
from layerpipe2.runs.train import train_run


@pytest.fixture(scope="session")
def small():
    """Three stages, two epochs of eight mini-batches."""
    return RunConfig(width=8, group_size=3, epochs=2, batch_size=128)


@pytest.fixture(scope="session")
def digits():
    return load("digits")


@pytest.fixture
def train(digits, small):
    def run(*, progress=False, **options):
        settings = {name: options.pop(name) for name in list(options) if name in RunConfig.model_fields}
        return train_run(small.copy_with(**settings), data=digits, progress=progress, **options)

    return run
