"""Settings of every test: one thread, so that bits don't depend on the machine's number of cores."""

import os
import signal
from pathlib import Path

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as a launcher's ranks have it; read when torch is imported
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's threads would wait for each other, a core busy for each

import pytest
import torch

# A shell ignores Ctrl-C for what it starts in the background, and processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What only a CUDA device can run stands in a folder of its own and isn't collected elsewhere.
collect_ignore = [] if torch.cuda.is_available() else ["cuda"]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(autouse=True)
def _the_same_environment_for_every_test():
    """Commands that run within a test set variables for their ranks; processes of later tests would inherit them."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(scope="session")
def published_results(tmp_path_factory) -> Path:
    """The folder with the published ``results`` and ``paper_figures/out``, whatever was computed here since."""
    from paper_figures.published import folder  # matplotlib, which most tests don't need

    return folder(Path(__file__).parents[1], tmp_path_factory.mktemp("published"))[0]


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    """Every device this machine has."""
    return request.param
