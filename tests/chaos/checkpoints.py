"""Damaged checkpoints, of one process and of several: refused in one line, or resumed to the undamaged one's result."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from layerpipe2.cli import main
from layerpipe2.lab.runs.callbacks import LastCheckpoint
from layerpipe2.pipeline import checkpoint
from tests.bombs import Bomb
from tests.chaos.attack import Act, Failed, Scene, call, judged
from tests.chaos.killed import Start, finish, numbers, same, two_ranks
from tests.chaos.processes import ended

_TRAINING = ["train", "--quiet", "--width", "8", "--batch-size", "256", "--epochs", "4", "--group-size", "3"]
_OPTIONS = [*_TRAINING, "--strategy", "ema-window", "--optimizer", "adamw"]


def prepare(folder: Path, start: Start) -> None:
    """Checkpoints after the second and the third epoch, one of another seed, and the record of the whole training."""
    logs = folder / "logs"
    logs.mkdir()
    finish(start([*_OPTIONS, "--out", str(folder / "whole.json")], logs), logs)
    for name, epochs, seed in (("second", 2, "0"), ("third", 3, "0"), ("other", 2, "1")):
        saved = _interrupt_after(epochs)
        for pid in start([*_OPTIONS, "--seed", seed, "--checkpoint-dir", str(folder / name)], logs):
            ended(pid)
        LastCheckpoint.on_train_epoch_end = saved  # type: ignore[method-assign]
        if not (folder / name / "last.ckpt").exists():
            raise RuntimeError(f"no checkpoint {name}: {[path.read_text() for path in logs.iterdir()]}")


def _interrupt_after(epochs: int) -> Any:
    saving = LastCheckpoint.on_train_epoch_end

    def save(self: LastCheckpoint, trainer: Any, module: Any) -> None:
        saving(self, trainer, module)
        if trainer.current_epoch + 1 == epochs:
            os._exit(0)

    LastCheckpoint.on_train_epoch_end = save  # type: ignore[method-assign]
    return saving


def damaged(scene: Scene, several: bool) -> Act:
    """A checkpoint is damaged and resumed from."""
    saved = scene.folder / "out" / "saved"
    shutil.copytree(scene.prepared / "second", saved)
    last = saved / "last.ckpt"
    files = sorted(last.iterdir()) if last.is_dir() else [last]
    victim = scene.random.choice(files)
    others = [path for path in files if path != victim]
    name = victim.relative_to(saved)
    others += [scene.prepared / which / name for which in ("third", "other")]
    kind = scene.random.choice(list(DAMAGES))
    DAMAGES[kind](scene, victim, others)
    resumed = [*_OPTIONS, "--resume", "--checkpoint-dir", str(saved), "--out", str(scene.out / "record.json")]

    def act() -> str:
        if several and scene.random.random() < 0.7:
            return _read_weights(saved / "last.ckpt", scene.prepared / "second" / "last.ckpt")
        outcome = _by_two(resumed, scene.out) if several else call(main, resumed)
        if outcome == "equal":
            same(numbers(scene.out / "record.json"), numbers(scene.prepared / "whole.json"))
        return outcome

    def named() -> str:
        try:
            return act()
        except Failed as failure:
            raise Failed(failure.kind, f"{kind} {name}: {failure.why}") from None

    return named


def _by_two(arguments: list[str], out: Path) -> str:
    logs = out / "logs"
    logs.mkdir()
    codes = [ended(pid) for pid in two_ranks(arguments, logs)]
    said = [(logs / str(rank)).read_text() for rank in range(2)]
    outcomes = {judged(code, text) for code, text in zip(codes, said, strict=True)}
    return "refused" if "refused" in outcomes else "equal"


def _read_weights(damaged: Path, whole: Path) -> str:
    found, expected = (checkpoint.whole_state_dict(folder) for folder in (damaged, whole))
    if found.keys() != expected.keys() or not all(torch.equal(found[name], expected[name]) for name in expected):
        raise Failed("different", "other weights were read")
    return "equal"


def _flip(scene: Scene, victim: Path, others: list[Path]) -> None:
    content = bytearray(victim.read_bytes())
    for _ in range(scene.random.choice([1, 1, 1, 8])):
        content[scene.random.randrange(len(content))] ^= 1 << scene.random.randrange(8)
    victim.write_bytes(content)


def _cut(scene: Scene, victim: Path, others: list[Path]) -> None:
    os.truncate(victim, scene.random.randrange(victim.stat().st_size))


def _overwrite(scene: Scene, victim: Path, others: list[Path]) -> None:
    content = bytearray(victim.read_bytes())
    first, length = scene.random.randrange(len(content)), scene.random.randint(1, 4096)
    block = scene.random.choice([bytes(length), scene.random.randbytes(length)])
    content[first : first + length] = block[: len(content) - first]
    victim.write_bytes(content)


def _swap(scene: Scene, victim: Path, others: list[Path]) -> None:
    other = scene.random.choice(others)
    content = victim.read_bytes()
    shutil.copyfile(other, victim)
    if other.is_relative_to(scene.folder):
        other.write_bytes(content)


def _bomb(scene: Scene, victim: Path, others: list[Path]) -> None:
    bomb = Bomb(scene.crater)
    kind = scene.random.choice(["alone", "archive", "added"])
    if kind == "alone":
        victim.write_bytes(pickle.dumps(bomb))
        return
    content = {"bomb": bomb}
    if kind == "added":
        content = torch.load(victim, weights_only=False)
        places = [content, *(value for value in content.values() if isinstance(value, dict))]
        place = scene.random.choice(places)
        place[scene.random.choice([*place, "bomb"])] = bomb
    torch.save(content, victim)


DAMAGES = {
    "flip": _flip,
    "cut": _cut,
    "overwrite": _overwrite,
    "swap": _swap,
    "remove": lambda scene, victim, others: victim.unlink(),
    "bomb": _bomb,
}
"""What is done to a file; it may know the other files, of this checkpoint and of others."""
