"""Ranks that don't fit together, and ranks that never come, are refused before training."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from layerpipe2.errors import UserError
from layerpipe2.pipeline.health.agreement import check_agreement, code_and_versions
from layerpipe2.pipeline.store import first_line, host_store, join_store
from layerpipe2.versions import code_hash


def outcomes(settings, sizes=None, timeout_s=20.0, times=1):
    """Each rank's error, or None. ``settings[rank]`` None: the rank doesn't come."""
    sizes = sizes or [len(settings)] * len(settings)
    server = host_store("127.0.0.1", 0, 20.0)

    def agree(rank):
        store = join_store("127.0.0.1", server.port, 20.0)
        try:
            for _ in range(times):
                check_agreement(store, rank, sizes[rank], settings[rank], timeout_s)
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(len(settings)) as pool:
        return list(pool.map(agree, [rank for rank, known in enumerate(settings) if known is not None]))


def test_equal_ranks_go_on_every_time():
    assert outcomes([code_and_versions()] * 3, times=3) == [None] * 3


DIFFERS = "rank {} differs from rank 0 in {}; start all with the same settings and code"
ABSENT = "{} never came: no sign of it for 0.5 s; start it, or see its output"


@pytest.mark.parametrize(
    ("settings", "sizes", "text"),
    [
        ([{"lr": "0.1"}, {"lr": "0.1"}, {"lr": "0.2"}], None, DIFFERS.format(2, "lr: 0.2 against 0.1")),
        ([{"a": "1"}, {}], None, DIFFERS.format(1, "a: missing against 1")),
        ([{}, {"a": "1"}], None, DIFFERS.format(1, "a: 1 against missing")),
        ([{}, {}], [2, 3], DIFFERS.format(1, "number of ranks: 3 against 2")),
        ([{}, None, {}], None, ABSENT.format("rank 1")),
        ([{}, None, None], None, ABSENT.format("rank 1, 2")),
    ],
)
def test_all_ranks_name_the_rank_and_what_is_wrong(settings, sizes, text):
    said = outcomes(settings, sizes, timeout_s=0.5 if None in settings else 20.0)
    assert said == [text] * sum(known is not None for known in settings)


def test_other_code_has_another_hash(tmp_path):
    hashes = []
    for name, text in (("a.py", "x = 1"), ("a.py", "x = 2"), ("b.py", "x = 2")):
        folder = tmp_path / str(len(hashes))
        folder.mkdir()
        (folder / name).write_text(text)
        hashes.append(code_hash(package=folder))
    assert len(set(hashes)) == 3
    (tmp_path / "0" / "notes.txt").write_text("no code")
    assert code_hash.__wrapped__(package=tmp_path / "0") == hashes[0]
    assert code_and_versions()["code of layerpipe2"] == code_hash()


def test_a_script_that_ends_itself_is_told_as_that():
    assert first_line(SystemExit(7)) == "called sys.exit(7)"
