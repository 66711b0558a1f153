"""``layerpipe2 launch``: what the ranks get, and that every end is one line, without orphans."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.distributed.fork_server import REPOSITORY

LIMIT_S = 120.0
TOY = str(Path(__file__).with_name("toy_pipeline.py"))
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
        environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(
            [*command, *arguments], env=environment, text=True, start_new_session=True, **pipes
        )
        self.head = [self.process.stdout.readline() for _ in range(ranks)]
        self.pids = [int(line.split()[-1]) for line in self.head]

    def end(self):
        """Exit code, further standard output, and what stands on standard error."""
        out, err = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, out, err

    def alive(self):
        """Ranks that still are, after a while that the kernel may need to end them."""
        end = time.monotonic() + LIMIT_S
        while any(map(exists, self.pids)) and time.monotonic() < end:
            time.sleep(0.02)
        return [pid for pid in self.pids if exists(pid)]


def exists(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


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


@pytest.mark.parametrize(
    ("end", "line"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", r"layerpipe2: rank 1 \(.*\) was killed by SIGKILL; all ranks end"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"layerpipe2: rank 1 \(.*\) was killed by SIGSEGV; all ranks end"),
        ("sys.exit(3)", r"layerpipe2: rank 1 \(.*\) ended with exit code 3; all ranks end"),
        (
            "print('layerpipe2: error: no such file', file=sys.stderr); sys.exit(2)",
            r"\[rank 1\] layerpipe2: error: no such file",
        ),
    ],
)
def test_a_rank_that_ends_badly_ends_the_others_with_one_line(script, end, line):
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if "SIGKILL" in end else ""
    text = f"{deaf}\nif rank == 1:\n    {end}\ntime.sleep(600)"
    launched = Launched("--processes", "3", "--", script(REPORT + text), ranks=3)
    code, _, err = launched.end()
    assert code == 2
    assert re.fullmatch(line, err.strip()), err
    assert launched.alive() == []


def test_a_stopped_rank_is_named_and_ended_too():
    launched = Launched("--processes", "3", "--", TOY, "stop@1", "100000", ranks=0)
    code, out, err = launched.end()
    assert code == 2
    assert re.fullmatch(
        r"\[rank [02]\] layerpipe2: rank 1 \(stage 1\) gives no sign of life for .*; all ranks end", err.strip()
    ), err
    assert "[rank 1] rank 1 at step 25" in out
    assert not [line for line in processes() if TOY in line]


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
    assert launched.alive() == []


def test_a_killed_launcher_takes_its_ranks_with_it(script):
    launched = Launched("--processes", "2", "--", script(SLEEP), ranks=2)
    launched.process.kill()
    assert launched.end()[0] == -signal.SIGKILL
    assert launched.alive() == []


def test_a_killed_torchrun_takes_watched_ranks_with_it(script):
    said = 'print("pid", os.getpid(), flush=True)'
    train = "train(rank, 2, '127.0.0.1', int(os.environ['MASTER_PORT']), '', 100000)"
    imports = "import os\nfrom tests.distributed.toy_pipeline import train"
    text = f"{imports}\nrank = int(os.environ['RANK'])\n{said}\n{train}\n"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script(text)]
    launched = Launched(command=command, ranks=2)
    while "at step 25" not in launched.process.stdout.readline():
        pass
    launched.process.kill()
    assert launched.end()[0] == -signal.SIGKILL
    assert launched.alive() == []


def processes():
    """Command lines of all processes."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return lines
