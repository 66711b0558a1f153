"""Mini-batches with names, and language models' targets: a training is that of the same numbers as a pair."""

from collections import UserDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from layerpipe2 import Delays, PipelinedModule, UserError
from layerpipe2.engine.batches import class_dimension
from tests.engine.training import OPTIMIZERS, assert_bit_equal, trainer
from tests.pipeline import fits

TOKENS, LENGTH = 7, 5


def samples(count=24):
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(TOKENS, (count, LENGTH), generator=generator)
    labels = tokens.flip(1).clone()
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = -100
    labels[0] = -100
    return [{"input_ids": t, "attention_mask": t > 0, "labels": y} for t, y in zip(tokens, labels, strict=True)]


def batches(form=dict, size=6):
    """A loader whose mini-batches are what ``form`` makes of a dictionary."""
    return DataLoader(samples(), size, collate_fn=lambda parts: form(torch.utils.data.default_collate(parts)))


def stages():
    torch.manual_seed(4)
    return [nn.Embedding(TOKENS, 6), nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, TOKENS)]


def language_model(**options):
    return PipelinedModule(stages(), Delays.layerpipe2(3), "ema-span", optimizer=OPTIMIZERS["adamw"], **options)


def by_name(**options):
    return language_model(**{"inputs": "input_ids", "target": "labels", "ignore_index": -100} | options)


def trained(model, form):
    trainer(2).fit(model, batches(form), batches(form))
    return model


def pair(batch):
    return [batch["input_ids"], batch["labels"]]


def test_names_positions_and_pairs_train_alike():
    expected = trained(language_model(loss=lambda y, t: F.cross_entropy(y.flatten(0, 1), t.flatten())), pair)
    by_position = by_name(inputs=0, target=2, loss=nn.CrossEntropyLoss())
    forms = [(by_name(), dict), (by_name(loss="cross_entropy"), UserDict), (language_model(), pair)]
    for model, form in [*forms, (by_position, lambda batch: tuple(batch.values()))]:
        assert_bit_equal(trained(model, form).state_dict(), expected.state_dict())


def test_means_are_those_of_the_targets_that_count():
    model = by_name()
    logged = trainer(1).test(model, batches(size=7), verbose=False)[0]
    everything = torch.utils.data.default_collate(samples())
    with torch.no_grad():
        outputs = model.eval()(everything["input_ids"])
    counted = everything["labels"] != -100
    hits = outputs.argmax(-1)[counted] == everything["labels"][counted]
    assert logged["test_loss"] == pytest.approx(F.cross_entropy(outputs[counted], everything["labels"][counted]).item())
    assert logged["test_accuracy"] == pytest.approx(hits.float().mean().item())
    assert "test_accuracy" not in trainer(1).test(by_name(accuracy=False), batches(), verbose=False)[0]


def test_a_mini_batch_in_which_nothing_counts_leaves_the_means_alone():
    alone = {name: part[:1] for name, part in torch.utils.data.default_collate(samples()).items()}
    loader = DataLoader([alone, *batches()], batch_size=None)
    logged = trainer(1).test(by_name(), loader, verbose=False)[0]
    assert logged["test_loss"] == pytest.approx(trainer(1).test(by_name(), batches(), verbose=False)[0]["test_loss"])


def test_shifted_targets_are_the_next_tokens():
    x, y = by_name(target="input_ids", shift_target=True).batch_format.pair(next(iter(batches())))
    assert torch.equal(y[:, :-1], x[:, 1:])
    assert (y[:, -1] == -100).all()


@pytest.mark.parametrize(
    ("outputs", "targets", "dimension"),
    [
        ((2, 3), (2,), 1),
        ((2, 3, 4), (2, 4), 1),
        ((2, 4, 3), (2, 4), -1),
        ((2, 4, 4), (2, 4), 1),
        ((2, 3), (2, 3), None),
    ],
)
def test_the_dimension_of_classes(outputs, targets, dimension):
    assert class_dimension(torch.zeros(outputs), torch.zeros(targets, dtype=torch.int64)) == dimension


def weighted(**options):
    """Tokens that the mask leaves out count a half."""

    def loss(outputs, targets):
        labels, mask = targets
        each = F.cross_entropy(outputs.transpose(1, 2), labels, reduction="none", ignore_index=-100)
        return (each * (1 + mask)).sum() / (2 * (labels != -100).sum())

    return by_name(**{"target": ("labels", "attention_mask"), "loss": loss} | options)


def test_a_loss_gets_several_targets_of_which_the_first_counts():
    everything = torch.utils.data.default_collate(samples())
    model = weighted()
    logged = trainer(1).test(model, batches(size=7), verbose=False)[0]
    labels = everything["labels"]
    outputs = model.eval()(everything["input_ids"])
    assert logged["test_loss"] == pytest.approx(model.loss(outputs, (labels, everything["attention_mask"])).item())
    assert logged["test_accuracy"] == trainer(1).test(by_name(), batches(), verbose=False)[0]["test_accuracy"]
    fits.assert_equal(fits.fit(weighted, data=batches), 2)


def test_processes_take_names_as_one_process_does():
    fits.assert_equal(fits.fit(by_name, data=batches), 2)


@pytest.mark.parametrize(
    ("model", "form", "message"),
    [
        (lambda: by_name(target=None), dict, r"^inputs is 'input_ids' and target is None; name both parts"),
        (
            lambda: by_name(target=("labels", "input_ids")),
            dict,
            r"^target is \('labels', 'input_ids'\), and the loss t",
        ),
        (lambda: weighted(shift_target=True), dict, r"^shift_target needs one target"),
        (lambda: by_name(inputs=1.5), dict, r"^inputs is 1.5; give a name or position"),
        (lambda: by_name(ignore_index=0, loss=nn.NLLLoss()), dict, r"^ignore_index is 0, and the loss ignores -100"),
        (lambda: by_name(ignore_index="no"), dict, r"^ignore_index is 'no'; give the class that doesn't count"),
        (
            lambda: by_name(ignore_index=None, shift_target=True),
            dict,
            r"^shift_target needs one target, and an ignore_index",
        ),
        (
            lambda: by_name(target="label"),
            dict,
            r"mini-batch has input_ids, attention_mask, labels, but target='label'",
        ),
        (
            lambda: by_name(inputs=3, target=1),
            pair,
            r"mini-batch is a list of 2 parts, but inputs=3; name one of its parts",
        ),
        (lambda: by_name(), lambda batch: batch | {"labels": [1]}, r"part 'labels' of a mini-batch is a list; a pipe"),
        (lambda: language_model(), dict, r"mini-batch is a dict; .*name its parts \(inputs=\.\.\., target=\.\.\.\)"),
        (
            lambda: by_name(shift_target=True),
            lambda batch: batch | {"labels": batch["labels"].float()},
            r"^shift_target needs token numbers \(B, T\) as targets; these are \[6, 5\] of torch.float32",
        ),
    ],
)
def test_refused(model, form, message):
    with pytest.raises(UserError, match=message):
        trained(model(), form)
