"""Coding: what a spiking network receives over time."""

import pytest
import torch

from layerpipe2.spiking import CODINGS


def images(count: int = 6) -> torch.Tensor:
    return torch.rand(count, 2, 4, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CODINGS)
def test_a_code_is_a_function_of_image_and_seed_alone(name):
    x = images()
    coded = CODINGS[name](x, 5, 3)
    assert coded.shape == ((5, 6, 2, 4, 1) if name == "columns" else (5, *x.shape))
    assert coded.dtype == x.dtype
    assert torch.equal(CODINGS[name](x.flip(0), 5, 3), coded.flip(1))  # wherever the image is in whichever batch
    assert torch.equal(CODINGS[name](x[2:3], 5, 3), coded[:, 2:3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_shift_and_scale_of_the_image_changes_spikes_by_rounding_alone(dtype):
    x = (images(50) * 200).round().to(dtype)
    x[:, 0, 0, :2] = torch.tensor([0, 200])  # of 255 intensities, half ones among them
    plain, shifted = x / 255, (x / 255 - 0.286) / 0.353
    rates = CODINGS["rate"](plain, 8, 0)
    assert set(rates.unique().tolist()) == {0, 1}
    assert torch.equal(CODINGS["rate"](shifted, 8, 0), rates)
    plain_at, shifted_at = (
        torch.arange(8).to(dtype) @ CODINGS["latency"](y, 8, 0).flatten(1) for y in (plain, shifted)
    )
    inside = x.flatten() > 0
    boundary = x.flatten() % 25 == 0  # of two of the eight steps
    assert torch.equal(plain_at[inside & ~boundary], shifted_at[inside & ~boundary])
    assert (plain_at - shifted_at)[inside].abs().max() <= 1


def test_rates_are_the_intensities_and_independent():
    x = torch.tensor([0, 0.25, 0.5, 1]).repeat(40, 1).view(40, 1, 2, 2)
    x[:, 0, 0, 1] += torch.linspace(0, 0.3, 40)  # forty images, none of them equal in 255 levels
    spikes = CODINGS["rate"](x, 400, 7).flatten(2)
    assert not spikes[:, :, 0].any()
    assert spikes[:, :, 3].all()
    assert abs(float(spikes[:, :, 2].mean()) - 0.5) < 0.02  # 16,000 draws: standard deviation 0.004
    half = spikes[:, :, 2]
    assert torch.corrcoef(half.T).fill_diagonal_(0).abs().max() < 0.25  # between images; 1 / sqrt(400) = 0.05
    assert torch.corrcoef(torch.stack([half[1:].flatten(), half[:-1].flatten()]))[0, 1].abs() < 0.04  # between steps
    assert not torch.equal(CODINGS["rate"](x, 400, 8).flatten(2), spikes)


def test_the_brighter_a_pixel_the_earlier_its_only_spike():
    x = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]).view(1, 1, 1, 5)
    spikes = CODINGS["latency"](x, 4, 0)[:, 0, 0, 0]
    assert spikes.T.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]]


def test_an_image_of_one_value_has_no_spikes():
    x = torch.full((1, 1, 2, 2), 0.3)
    assert not any(CODINGS[name](x, 4, 0).any() for name in ("rate", "latency"))


def test_the_width_is_time_for_columns():
    x = images()
    assert torch.equal(CODINGS["columns"](x, 5, 0)[3, :, :, :, 0], x[..., 3])
