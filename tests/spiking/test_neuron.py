"""The neuron: its filter and the adjoint, what the reset cuts off, and other libraries' neurons."""

import math
from itertools import product

import pytest
import snntorch
import torch
from snntorch import surrogate
from torch import Tensor

from layerpipe2.errors import UserError
from layerpipe2.spiking import RESETS, SURROGATES, Neuron, fire, integrate, step, unrolled
from layerpipe2.spiking.neuron import State, at_rest

DECAYS = [(0.9, 0.0), (0.8, 0.5), (0.0, 0.0), (0.0, 0.7)]


def inputs(steps: int = 12, size: int = 40, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, size, dtype=torch.float64, generator=generator).add(0.4).requires_grad_()


def spikes_and_gradient(run, x: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes, and the gradient of a sum with weights of its own for each."""
    spikes = run(x)
    weights = torch.randn(spikes.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((weights * spikes).sum(), x)
    return spikes.detach(), gradient


@pytest.mark.parametrize(("decays", "reset", "surrogate_name"), list(product(DECAYS, RESETS, SURROGATES)))
def test_one_filter_for_both_directions_equals_unrolled_autograd(decays, reset, surrogate_name):
    neuron = Neuron(*decays, threshold=0.7, reset=reset, surrogate=surrogate_name)
    spikes, gradient = spikes_and_gradient(lambda x: fire(neuron, x), inputs())
    expected, expected_gradient = spikes_and_gradient(lambda x: unrolled(neuron, x), inputs())
    assert torch.equal(spikes, expected)
    assert 0.05 < float(spikes.mean()) < 0.95
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12)
    assert gradient.abs().max() > 0.1


def test_a_neuron_traced_by_hand():
    x = torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64)
    neuron = Neuron(membrane_decay=0.5, threshold=0.75)
    # V: 1 | 0.5 + 0.5 - 0.75 = 0.25 | 0.125 | 0.0625 + 2 = 2.0625
    assert fire(neuron, x).tolist() == [1, 0, 0, 1]
    state, membranes = at_rest(x[0]), []
    for now in x:
        _, state = step(neuron, now, state)
        membranes.append(float(state.membrane))
    assert membranes == [1, 0.25, 0.125, 2.0625]
    emptied = Neuron(membrane_decay=0.5, threshold=0.75, reset="zero")
    _, state = step(emptied, x[1], State(x[0], x[0]))
    assert float(state.membrane) == 0.5


@pytest.mark.parametrize("decays", DECAYS)
def test_the_gradient_of_the_filter_is_the_filter_backwards_in_time(decays):
    neuron, x = Neuron(*decays), inputs()
    weights = torch.randn(x.shape, dtype=x.dtype)
    (gradient,) = torch.autograd.grad((weights * integrate(neuron, x)).sum(), x)
    torch.testing.assert_close(gradient, integrate(neuron, weights.flip(0)).flip(0), rtol=0, atol=1e-13)
    assert torch.autograd.gradcheck(lambda x: integrate(neuron, x), inputs(5, 3))
    assert torch.autograd.gradgradcheck(lambda x: integrate(neuron, x), inputs(5, 3))


def snntorch_run(neuron: Neuron, x: Tensor) -> Tensor:
    """The same by snntorch's neurons."""
    shape = {
        "fast-sigmoid": surrogate.fast_sigmoid(slope=neuron.slope),
        "arctan": surrogate.atan(alpha=2 * neuron.slope / math.pi),
    }[neuron.surrogate]
    constants = {"threshold": neuron.threshold, "reset_mechanism": neuron.reset, "spike_grad": shape}
    if neuron.synapse_decay:
        two_pole = snntorch.Synaptic(neuron.synapse_decay, neuron.membrane_decay, **constants).double()
        state = two_pole.init_synaptic()
    else:
        two_pole = snntorch.Leaky(neuron.membrane_decay, **constants).double()
        state = (two_pole.init_leaky(),)
    spikes = []
    for now in x:
        fired, *state = two_pole(now, *state)
        spikes.append(fired)
    return torch.stack(spikes)


@pytest.mark.parametrize("name", ["fast-sigmoid", "arctan"])
@pytest.mark.parametrize("reset", ["subtract", "none"])
@pytest.mark.parametrize("decays", [(0.75, 0.0), (0.75, 0.5)])
def test_snntorch_has_the_same_spikes_and_gradients(decays, reset, name):
    neuron = Neuron(*decays, threshold=0.75, reset=reset, surrogate=name)  # decays that float32 holds exactly
    spikes, gradient = spikes_and_gradient(lambda x: fire(neuron, x), inputs())
    theirs, their_gradient = spikes_and_gradient(lambda x: snntorch_run(neuron, x), inputs())
    assert torch.equal(spikes, theirs)
    height = neuron.slope / math.pi if name == "arctan" else 1  # snntorch's arctan is this high at the threshold
    torch.testing.assert_close(height * gradient, their_gradient, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SURROGATES)
def test_a_surrogate_is_one_at_the_threshold_and_falls_on_both_sides(name):
    u = torch.arange(-30, 31, dtype=torch.float64) / 10
    before = u.clone()
    values = SURROGATES[name](u, 2.0)
    assert torch.equal(u, before)
    assert values[30] == 1
    assert torch.equal(values, values.flip(0))
    assert (values[30:].diff() <= 0).all()
    assert values.min() >= 0
    assert (SURROGATES[name](u, 4.0) <= values).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({name: value}, f"{name} is .*; give a number >= 0 and < 1")
            for name in ("membrane_decay", "synapse_decay")
            for value in (1, 1.5, -0.1, math.nan, "0.5", True)
        ),
        *(
            ({name: value}, f"{name} is .*; give a finite number > 0")
            for name in ("threshold", "slope")
            for value in (0, -1, math.inf, math.nan, None)
        ),
        ({"reset": "subtrct"}, "unknown reset 'subtrct'; did you mean 'subtract'"),
        ({"surrogate": "arctn"}, "unknown surrogate 'arctn'; did you mean 'arctan'"),
    ],
)
def test_bad_constants_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Neuron(**changes)


@pytest.mark.parametrize("run", [fire, integrate, unrolled])
@pytest.mark.parametrize("shape", [(0, 4), ()])
def test_inputs_without_a_time_step_are_refused(run, shape):
    with pytest.raises(UserError, match=r"shape \[.*\]; give \(time steps, ...\), one step or more"):
        run(Neuron(), torch.zeros(shape))


@pytest.mark.parametrize("run", [fire, integrate, unrolled])
def test_integers_are_refused(run):
    with pytest.raises(UserError, match=r"inputs of torch\.int64; give a floating-point type"):
        run(Neuron(), torch.ones(3, 2, dtype=torch.int64))
