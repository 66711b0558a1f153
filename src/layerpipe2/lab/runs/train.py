"""One training run, from a configuration to a record."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from layerpipe2.engine.device import resolve_device
from layerpipe2.engine.execution import StepLimit
from layerpipe2.engine.module import PipelinedModule
from layerpipe2.engine.probe import ReconstructionProbe
from layerpipe2.engine.quiet_trainer import quiet_trainer, running_lightning
from layerpipe2.errors import UserError
from layerpipe2.lab.data import Data, load
from layerpipe2.lab.provenance import TRAINING, provenance
from layerpipe2.lab.runs.callbacks import CountCorrect, EpochProgress, EpochRecorder, LastCheckpoint, find_checkpoint
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.correct import packed
from layerpipe2.lab.runs.plan import Loaders, Plan, make_loaders, make_plan, optimizer_factory, scheduler_factory
from layerpipe2.lab.runs.record_schema import SCHEMA
from layerpipe2.lab.runs.records import Record, not_finite
from layerpipe2.lightning import pl
from layerpipe2.strategies import STRATEGIES, raw_forms
from layerpipe2.versions import code_hash


def train_run(
    config: RunConfig,
    *,
    data: Data | None = None,
    progress: bool = True,
    checkpoint_dir: Path | None = None,
    resume: bool = False,
    trainer_strategy: pl.strategies.Strategy | None = None,
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence[pl.loggers.Logger] = (),
    test: bool = True,
) -> Record:
    """Train, validate after every epoch, test once at the end, and return the run's record.

    Args:
        config: all settings; the run is a function of them (and of the library versions and the machine).
        data: the data set if it is already in memory; by default it is loaded by name.
        progress: show a bar, or sparse lines where there is no terminal.
        checkpoint_dir: save the complete state there after every epoch, as ``last.ckpt``, beside the one before.
        resume: continue from that checkpoint, bit for bit.
        trainer_strategy: the Trainer's strategy if this process is one of a pipeline's; all return the same record.
        callbacks: further ones. Lightning calls them before those that save, as the run's own recorder of epochs is.
        loggers: Lightning's, which get the metrics of every epoch and of the test.
        test: whether to evaluate the test part; tuning doesn't.

    Returns:
        The record: ``schema``, ``config``, ``network`` (``units``, ``parameters_per_stage``), ``convention``,
        ``delays`` (in updates), ``history_copies`` (multiples of the network's size), ``status`` (``completed``, or
        ``diverged`` if a number isn't finite), ``diverged_epoch`` (the last one if only the test shows it),
        ``divergence`` (``place`` of the first such number, as in ``epochs.3.val_loss`` or ``test.loss``, and where it
        came from: :meth:`layerpipe2.engine.execution.Execution.where_diverged`), ``epochs`` (rows of
        :class:`EpochRecorder`), ``test`` (``loss``, ``accuracy`` in [0, 1], ``correct`` of
        :mod:`layerpipe2.lab.runs.correct`, all None if diverged, and ``images``; None without a test),
        ``reconstruction`` (rows of the probe) and ``provenance``.

    Raises:
        UserError: on settings or data that don't work together, or a checkpoint that doesn't belong to them.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    checkpoint = find_checkpoint(checkpoint_dir, resume, several=trainer_strategy is not None)
    device = resolve_device(config.device)
    torch.set_num_threads(config.threads)
    data = data or load(config.dataset, config.data_root)
    pl.seed_everything(config.seed, verbose=False)
    plan = make_plan(config, data.input_shape, data.num_classes)
    loaders = make_loaders(config, data, device)
    plan = plan.warmed_up(len(loaders["train"]))
    recorder = EpochRecorder(plan.config.to_dict())
    probe = None if trainer_strategy else make_probe(plan)
    label = f"{config.network} g{plan.config.group_size} {config.strategy} s{config.seed}"
    own = (
        StepLimit(config.max_steps) if config.max_steps else None,
        probe,
        EpochProgress(config.epochs, label) if progress else None,
        recorder,
        LastCheckpoint(checkpoint_dir) if checkpoint_dir else None,
    )
    all_callbacks = [*filter(None, own), *callbacks]
    limits = whole_updates(plan, len(loaders["train"])), None
    trainer = quiet_trainer(config.epochs, device, all_callbacks, trainer_strategy, limits, loggers)
    module = make_module(plan, len(loaders["train"]), stage_seed=config.seed if trainer_strategy else None)
    found = _train_and_test(module, loaders, trainer, recorder, checkpoint, test)
    where = provenance(device) | {
        "code": code_hash(TRAINING),
        "started": started.isoformat(timespec="seconds"),
        "wall_time_s": time.perf_counter() - clock,
        "train_time_s": recorder.train_time_s,
    }
    return {
        "schema": SCHEMA,
        "config": plan.config.to_dict(),
        "network": {"units": plan.units, "parameters_per_stage": plan.parameters_per_stage},
        "convention": plan.delays.convention,
        "delays": list(plan.delays.per_stage),
        "history_copies": plan.history_copies(),
        **_outcome(
            {"epochs": recorder.rows, "test": found, "reconstruction": probe.rows() if probe else []},
            recorder.divergence or module.execution.where_diverged(),
        ),
        "provenance": where,
    }


def _outcome(measured: dict[str, Any], divergence: dict[str, Any]) -> dict[str, Any]:
    """What was measured, and whether the run is complete: only if every number is finite."""
    place = not_finite(measured)
    if place is None:
        return {"status": "completed", "diverged_epoch": None, "divergence": None, **measured}
    rows = measured["epochs"]
    epoch = next((row["epoch"] for row in rows if not_finite(row) is not None), rows[-1]["epoch"])
    test = measured["test"] and measured["test"] | {"loss": None, "accuracy": None, "correct": None}
    where = {"place": place, **divergence, "epoch": epoch}
    return {"status": "diverged", "diverged_epoch": epoch, "divergence": where, **measured, "test": test}


def make_probe(plan: Plan) -> ReconstructionProbe | None:
    """The probe of every strategy that recalls weights, if the run has delays, exact weights and ``probe_every``."""
    config = plan.config
    if config.strategy != "stash" or not config.probe_every or not any(plan.delays.per_stage):
        return None
    recalling = [name for name, row in STRATEGIES.items() if not row.make().exact]
    return ReconstructionProbe([*recalling, *raw_forms()], config.probe_every)


def whole_updates(plan: Plan, steps_per_epoch: int) -> int | None:
    """The mini-batches of an epoch that make whole updates; ``None``: all of them, since each makes one.

    Raises:
        UserError: if there is not one update.
    """
    if plan.accumulate > steps_per_epoch:
        raise UserError(f"accumulate is {plan.accumulate}; give at most {steps_per_epoch}, an epoch's mini-batches")
    return None if plan.accumulate == 1 else steps_per_epoch - steps_per_epoch % plan.accumulate


def make_module(plan: Plan, steps_per_epoch: int, stage_seed: int | None = None) -> PipelinedModule:
    """The module that a run trains; ``steps_per_epoch`` is the unit of its learning-rate schedule."""
    config = plan.config
    double = config.precision == "float64"
    return PipelinedModule(
        [stage.double() if double else stage for stage in plan.stages],
        plan.delays,
        plan.strategy,
        optimizer=optimizer_factory(config),
        scheduler=scheduler_factory(config, steps_per_epoch),
        scheduler_interval="step",
        gradient_clip_norm=config.gradient_clip_norm,
        drain=config.drain,
        precision="bf16" if config.precision == "bf16" else "native",
        stage_seed=stage_seed,
        cuda_graph=config.cuda_graph,
        accumulate=plan.accumulate,
    )


def _train_and_test(
    module: PipelinedModule,
    loaders: Loaders,
    trainer: pl.Trainer,
    recorder: EpochRecorder,
    checkpoint: Path | None,
    test: bool,
) -> dict[str, Any] | None:
    outcome: dict[str, Any] = {"loss": None, "accuracy": None, "images": len(loaders["test"].y), "correct": None}
    with running_lightning(".*smaller than the logging interval"):  # nothing is logged by step
        trainer.fit(module, loaders["train"], loaders["validation"], ckpt_path=checkpoint)
        if not test:
            return None
        if recorder.diverged:
            return outcome
        counting = CountCorrect(loaders["test"].y)
        trainer.callbacks.append(counting)  # type: ignore[attr-defined]
        found = trainer.test(module, loaders["test"], verbose=False)[0]
        if not counting.complete:
            trainer.predict(module, loaders["test"], return_predictions=False)
    correct = packed(counting.counts())
    return outcome | {"loss": found["test_loss"], "accuracy": found["test_accuracy"], "correct": correct}
