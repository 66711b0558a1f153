"""The batch loader: normalisation, order, augmentation and position."""

from itertools import islice
from typing import Any

import pytest
import torch
from torch.nn.functional import pad

from layerpipe2.errors import UserError
from layerpipe2.lab.data import BatchLoader, TensorSplit
from layerpipe2.lab.data.batches import crop_and_mirror

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def make_split(count=50, shape=(3, 16, 16), flippable=True):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return TensorSplit(x, torch.arange(count), flippable)


def make_loader(split=None, batch_size=8, **changes):
    options: dict[str, Any] = {"mean": MEAN, "std": STD, "seed": 7} | changes
    return BatchLoader(make_split() if split is None else split, batch_size, **options)


def epoch_of(loader, epoch):
    loader.set_epoch(epoch)
    xs, ys = zip(*loader, strict=True)
    return torch.cat(xs), torch.cat(ys)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-14)])
def test_batches_are_normalised_images_in_order(dtype, tolerance):
    split = make_split()
    x, y = epoch_of(make_loader(split, dtype=dtype), 0)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (MEAN, STD))
    assert x.dtype == dtype
    torch.testing.assert_close(x.double(), (split.x.double() / 255 - mean) / std, rtol=0, atol=tolerance)
    assert torch.equal(y, split.y)


def test_length_and_last_batch():
    assert [len(y) for _, y in make_loader()] == [8, 8, 8, 8, 8, 8, 2]
    assert len(make_loader()) == 7
    assert [len(y) for _, y in make_loader(drop_last=True)] == [8] * 6
    assert len(make_loader(drop_last=True)) == 6
    assert len(make_loader(batch_size=1000)) == 1


def test_a_shuffled_epoch_holds_every_image_once_with_its_label():
    split = make_split()
    x, y = epoch_of(make_loader(split, shuffle=True), 0)
    assert not torch.equal(y, split.y)
    assert torch.equal(y.sort().values, split.y)
    assert torch.equal(x, epoch_of(make_loader(split), 0)[0][y])


@pytest.mark.parametrize("random", ["shuffle", "augment"])
def test_batches_are_a_function_of_seed_and_epoch_alone(random):
    first = make_loader(**{random: True})
    expected = [epoch_of(first, epoch) for epoch in range(3)]
    torch.manual_seed(99)
    state = torch.get_rng_state()
    second = make_loader(**{random: True})
    for epoch in (2, 0):
        assert all(map(torch.equal, epoch_of(second, epoch), expected[epoch]))
    for other in (expected[1], epoch_of(make_loader(seed=8, **{random: True}), 0)):
        assert not torch.equal(expected[0][0], other[0])
        assert torch.equal(expected[0][1], other[1]) == (random == "augment")
    assert torch.equal(state, torch.get_rng_state())


def test_crop_and_mirror_equals_slicing_image_by_image():
    images = make_split(20).x
    dy, dx = torch.randint(0, 5, (2, 20))
    mirror = torch.arange(20) % 3 == 0
    out = crop_and_mirror(images, dy, dx, mirror, padding=2)
    padded = pad(images, (2, 2, 2, 2))
    for i in range(20):
        window = padded[i, :, dy[i] : dy[i] + 16, dx[i] : dx[i] + 16]
        assert torch.equal(out[i], window.flip(-1) if mirror[i] else window)


@pytest.mark.parametrize("flippable", [False, True])
def test_augmentation_shifts_by_an_eighth_and_mirrors_where_it_makes_sense(flippable):
    # Every pixel says its column, 0 to 15: the middle of a window then tells its shift and its direction.
    columns = torch.arange(16, dtype=torch.uint8).expand(400, 1, 16, 16)
    split = TensorSplit(columns, torch.zeros(400, dtype=torch.long), flippable)
    x, _ = epoch_of(make_loader(split, 64, mean=(0.0,), std=(1 / 255,), augment=True), 0)
    left, right = x[:, 0, 8, 7:9].round().unbind(1)
    mirrored = right < left
    assert (left - right).abs().unique().tolist() == [1]
    assert set((torch.minimum(left, right) - 7).tolist()) == {-2, -1, 0, 1, 2}
    assert 150 < int(mirrored.sum()) < 250 if flippable else not mirrored.any()


def test_no_batch_reads_a_value_back_from_the_device():
    # Tensors on the meta device have no values: anything that would make the host wait for one raises.
    loader = make_loader(shuffle=True, augment=True, device="meta")
    assert [(x.device.type, tuple(x.shape)) for x, _ in islice(loader, 2)] == [("meta", (8, 3, 16, 16))] * 2


def test_batches_are_the_same_on_every_device_and_never_wait_for_it(device):
    expected = make_loader(shuffle=True, augment=True)
    loader = make_loader(shuffle=True, augment=True, device=device)
    batches = iter(loader)
    found = [next(batches)]
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        found += batches
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    for (x, y), (x_cpu, y_cpu) in zip(found, expected, strict=True):
        torch.testing.assert_close(x.cpu(), x_cpu)
        assert torch.equal(y.cpu(), y_cpu)


def test_iteration_continues_at_the_saved_batch():
    loader = make_loader(shuffle=True, augment=True)
    expected = epoch_of(loader, 4)[0]
    list(islice(loader, 3))
    state = loader.state_dict()
    resumed = make_loader(shuffle=True, augment=True)
    resumed.load_state_dict(state)
    assert torch.equal(epoch_of(resumed, 4)[0], expected[24:])
    assert torch.equal(epoch_of(resumed, 4)[0], expected)
    resumed.load_state_dict(state)
    assert len(epoch_of(resumed, 5)[0]) == 50


def test_a_broken_off_iteration_starts_anew():
    loader = make_loader(shuffle=True)
    first = next(iter(loader))[1]
    assert torch.equal(first, next(iter(loader))[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch size is 0; give an integer >= 1"),
        ({"batch_size": 2.0}, r"batch size is 2\.0"),
        ({"seed": -1}, "data seed is -1; give an integer >= 0"),
        ({"batch_size": 51, "drop_last": True}, "leaves no batch of 50 images; choose a batch size of at most 50"),
        ({"split": make_split(0)}, "no images; choose a validation fraction above 0"),
        ({"mean": (0.5,)}, "must have 3 entries"),
        ({"std": (0.1, 0.0, 0.1)}, "std above 0"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make_loader(**changes)
