"""One PostgreSQL server for all tests."""

import pytest

from tests.lab.tuning.postgres import Server


@pytest.fixture(scope="session")
def server():
    server = Server()
    yield server
    server.remove()
