"""``layerpipe2 launch``: what the ranks get, and that every end is one line, without orphans."""

import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.experiments.running import alive, soon
from tests.pipeline.hosts import LIMIT_S, TOY, start
from tests.sampling import slow

# A rank that needs no torch: it says where it is and waits for the others to have done so.
REPORT = """
import os, signal, sys, time
from pathlib import Path
rank, folder = int(os.environ["RANK"]), Path(__file__).parent
print("pid", os.getpid(), flush=True)
Path(folder, f"{rank}.there").touch()
while len(list(folder.glob("*.there"))) < int(os.environ["WORLD_SIZE"]):
    time.sleep(0.01)
"""
SLEEP = REPORT + "time.sleep(600)"


class Launched:
    """A launcher in the background, with the process numbers of its ranks as they come."""

    def __init__(self, *arguments, ranks, command=(sys.executable, "-m", "layerpipe2", "launch")):
        self.process = start([*command, *arguments])
        self.pids = [int(self.process.stdout.readline().split()[-1]) for _ in range(ranks)]

    def end(self):
        """Exit code, further standard output, and what stands on standard error."""
        out, err = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, out, err

    def no_rank_is_left(self):
        return soon(lambda: not any(map(alive, self.pids)))


@pytest.fixture
def script(tmp_path):
    def write(text):
        path = tmp_path / "rank.py"
        path.write_text(text)
        return str(path)

    return write


def test_ranks_get_torchruns_environment_threads_and_their_arguments_untouched(script):
    text = """
import os, sys
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME")
print(*(os.environ[name] for name in names), *sys.argv[1:])
print("no newline", end="")
"""
    arguments = ("--", script(text), "$HOME", "$$", "--processes", "x y")
    launched = Launched("--processes", "2", "--threads", "3", *arguments, ranks=0)
    code, out, err = launched.end()
    assert (code, err) == (0, "")
    expected = [f"[rank {r}] {r} {r} 2 127.0.0.1 3 lo $HOME $$ --processes x y" for r in (0, 1)]
    lines = out.replace("no newline", "no newline\n").splitlines()
    assert sorted(lines) == sorted([*expected, "[rank 0] no newline", "[rank 1] no newline"])


KILLED = r"layerpipe2: rank 1 \(.*\) was killed by {}; all ranks end"
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
REFUSE = "print('layerpipe2: error: no file', file=sys.stderr); sys.exit(2)"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"  # torchrun waits for 30 s before it kills such ranks


@pytest.mark.parametrize(
    ("before", "end", "line"),
    [
        ("", KILL, KILLED.format("SIGKILL")),
        pytest.param(DEAF, KILL, KILLED.format("SIGKILL"), marks=slow),
        pytest.param("", "os.kill(os.getpid(), signal.SIGSEGV)", KILLED.format("SIGSEGV"), marks=slow),
        ("", "sys.exit(3)", r"layerpipe2: rank 1 \(.*\) ended with exit code 3; all ranks end"),
        ("", REFUSE, r"\[rank 1\] layerpipe2: error: no file"),
    ],
)
def test_a_rank_that_ends_badly_ends_the_others_with_one_line(script, before, end, line):
    text = f"{before}\nif rank == 1:\n    {end}\ntime.sleep(600)"
    launched = Launched("--processes", "3", "--", script(REPORT + text), ranks=3)
    code, _, err = launched.end()
    assert code == 2
    assert re.fullmatch(line, err.strip()), err
    assert launched.no_rank_is_left()


REFUSED = """
from tests.pipeline import test_refusals as refused
refused.fit({})
"""
EARLY = "from layerpipe2 import make_strategy\nmake_strategy('stas')"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(EARLY, "unknown strategy 'stas'; did you mean 'stash'\\?", marks=slow),
        pytest.param(REFUSED.format("refused.plateau"), "ReduceLROnPlateau waits for a metric, .*", marks=slow),
        (REFUSED.format("callbacks=refused.scaled()"), "stage [01]: weights were changed between two updates .*"),
    ],
    ids=["before the processes meet", "before training", "in the middle of training"],
)
def test_a_scripts_mistake_is_one_line_on_the_launchers_standard_error(script, text, said):
    code, _, err = Launched("--processes", "2", "--", script(text), ranks=0).end()
    lines = [line for line in err.splitlines() if "layerpipe2" in line.partition(":")[0] or "Traceback" in line]
    assert code == 2
    assert len(set(lines)) == len(lines) in (1, 2), err  # two stages may have something to say
    assert all(re.fullmatch(rf"\[rank \d\] layerpipe2: error: {said}", line) for line in lines), err


@slow
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("hang@1", "hangs: no progress for 2 s at step 24"),
        ("stop@1", "gives no sign of life for .*"),  # nor does it hear SIGTERM
    ],
)
def test_a_rank_that_stands_still_is_named_and_ended_too(fault, why, tmp_path):
    marker = str(tmp_path)
    launched = Launched("--processes", "3", "--", TOY, fault, "100000", marker, ranks=0)
    code, out, err = launched.end()
    assert code == 2
    assert re.fullmatch(rf"\[rank \d\] layerpipe2: rank 1 \(stage 1\) {why}; all ranks end", err.strip()), err
    assert "[rank 1] rank 1 at step 25" in out
    assert not [line for line in command_lines() if marker in line]


@pytest.mark.parametrize(
    ("kind", "code", "line"),
    [
        (signal.SIGINT, 130, "layerpipe2: interrupted"),
        (signal.SIGTERM, 2, "layerpipe2: error: ended by SIGTERM, with all ranks"),
    ],
)
def test_a_launcher_that_is_told_to_end_ends_its_ranks(script, kind, code, line):
    launched = Launched("--processes", "2", "--", script(SLEEP), ranks=2)
    launched.process.send_signal(kind)
    assert launched.end() == (code, "", f"{line}\n")
    assert launched.no_rank_is_left()


def test_a_killed_launcher_takes_its_ranks_and_its_logs_with_it(script, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    launched = Launched("--processes", "2", "--", script(SLEEP), ranks=2)
    assert list(tmp_path.glob("layerpipe2-*"))
    launched.process.kill()
    assert launched.end()[0] == -signal.SIGKILL
    assert launched.no_rank_is_left()
    assert soon(lambda: not list(tmp_path.glob("layerpipe2-*")))


def test_logs_go_with_the_launcher_where_the_process_that_waits_for_its_death_was_killed(script, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    launched = Launched("--processes", "2", "--", script(SLEEP), ranks=2)
    found = Path(f"/proc/{launched.process.pid}/task/{launched.process.pid}/children").read_text().split()
    (waiting,) = (pid for pid in found if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sh\0-c\0cat"))
    os.kill(int(waiting), signal.SIGKILL)
    launched.process.terminate()
    assert launched.end()[0] == 2
    assert soon(lambda: not list(tmp_path.glob("layerpipe2-*")))


@slow
def test_a_killed_torchrun_takes_watched_ranks_with_it(script):
    imports = "import os\nfrom tests.pipeline.toy_pipeline import train"
    text = f'{imports}\nprint("pid", os.getpid(), flush=True)\ntrain("", 100000)\n'
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script(text)]
    launched = Launched(command=command, ranks=2)
    while "at step 25" not in launched.process.stdout.readline():
        pass
    launched.process.kill()
    assert launched.end()[0] == -signal.SIGKILL
    assert launched.no_rank_is_left()


def command_lines():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            yield path.read_bytes().replace(b"\0", b" ").decode()
