"""Operations and bytes against hand formulas and published counts; time models against SCALE-Sim's cycles."""

import csv
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from layerpipe2.errors import UserError
from layerpipe2.lab import networks
from layerpipe2.lab.reference import REFERENCE
from layerpipe2.planning import FlopDevice, SystolicArray, Work, network_costs
from layerpipe2.planning.measure import measure
from layerpipe2.planning.work import Gemm

PUBLISHED = {"alexnet": models.AlexNet_Weights.IMAGENET1K_V1, "resnet18": models.ResNet18_Weights.IMAGENET1K_V1}


def test_linear_layer_by_hand():
    first, second = measure([nn.Linear(5, 7), nn.Linear(7, 3)], (5,), 4)
    assert (first.forward.flops, first.activation.flops, first.weight.flops) == (2 * 4 * 5 * 7, 0, 2 * 4 * 5 * 7)
    assert (second.forward.flops, second.activation.flops, second.weight.flops) == (2 * 4 * 7 * 3,) * 3
    assert second.forward.gemms == (Gemm(4, 3, 7),)
    assert second.activation.gemms == (Gemm(4, 7, 3),)
    assert second.weight.gemms == (Gemm(7, 3, 4),)
    assert (second.input_bytes, second.output_bytes, second.parameter_bytes) == (4 * 4 * 7, 4 * 4 * 3, 4 * (7 * 3 + 3))


def test_grouped_strided_convolution_by_hand():
    conv = nn.Conv2d(8, 12, (3, 5), stride=2, padding=1, groups=4, bias=False)
    _, work = measure([nn.Conv2d(3, 8, 1), conv], (3, 16, 18), 2)
    height, width = 8, 8  # floor((16 + 2 - 3) / 2) + 1 and floor((18 + 2 - 5) / 2) + 1
    expected = 2 * (2 * height * width) * 12 * (8 // 4 * 3 * 5)  # a filter sees 8 / 4 channels
    assert work.forward.flops == work.activation.flops == work.weight.flops == expected
    assert [g.flops for w in (work.forward, work.activation, work.weight) for g in w.gemms] == [expected] * 3


def test_what_the_forward_pass_keeps_by_hand():
    (work,) = measure([nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))], (4,), 5)
    # The input for the first weight gradient, the ReLU's output for the ReLU and for the second weight gradient.
    assert work.saved_bytes == 4 * 5 * 4 + 4 * 5 * 3


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts_of_operations_and_parameters(name):
    network, meta = REFERENCE[name], PUBLISHED[name].meta
    work = measure(network.units(), network.input_shape, 1)
    assert sum(w.forward.flops for w in work) / 2e9 == pytest.approx(meta["_ops"], rel=2e-3)
    assert sum(w.parameter_bytes for w in work) == 4 * meta["num_params"]


@pytest.mark.parametrize("name", ["mlp", "vgg", "resnet-small"])
def test_gradients_cost_what_theory_says(name):
    units = networks.build(name, input_shape=(3, 32, 32), num_classes=10, width=8)
    work = measure(units, (3, 32, 32), 2)
    forward = sum(w.forward.flops for w in work)
    assert sum(w.weight.flops for w in work) == forward
    # Every layer but the very first one needs its input's gradient.
    assert sum(w.activation.flops for w in work) == forward - work[0].forward.gemms[0].flops
    for passed in (p for w in work for p in (w.forward, w.activation, w.weight)):
        assert sum(g.flops for g in passed.gemms) == passed.flops


def test_attention_has_two_gradients_of_activations_and_none_of_weights():
    """Q K^T and its product with V: 2 T^2 D multiply-adds forward, twice that for the gradients of both factors."""
    batch, tokens, width = 2, 64, 8
    block = measure(networks.build("vit", input_shape=(3, 32, 32), num_classes=10, width=width), (3, 32, 32), batch)[1]
    attention = 4 * batch * tokens**2 * width
    assert block.forward.flops - attention == block.weight.flops == block.activation.flops - 2 * attention


def test_tokens_have_no_gradient_and_their_embedding_costs_no_product():
    batch, tokens, vocabulary, width = 2, 16, 11, 8
    units = networks.build("gpt", input_shape=(tokens,), num_classes=vocabulary, width=width)
    first, block, *_ = measure(units, (tokens,), batch, torch.int64)
    assert (first.forward.flops, first.activation.flops, first.weight.flops) == (0, 0, 0)
    assert (first.input_bytes, first.output_bytes) == (8 * batch * tokens, 4 * batch * tokens * width)
    assert first.parameter_bytes == 4 * (vocabulary + tokens) * width
    (stage,) = measure([nn.Sequential(*units[:2])], (tokens,), batch, torch.int64)
    for found, expected in ((stage.activation, block.activation), (stage.weight, block.weight)):
        assert found.flops == expected.flops > 0
    (frozen,) = measure([units[0].requires_grad_(False)], (tokens,), batch, torch.int64)
    assert (frozen.activation.flops, frozen.weight.flops, frozen.parameter_bytes) == (0, 0, 0)


def test_meta_device_counts_what_a_real_run_saves():
    units = networks.build("resnet-small", input_shape=(3, 16, 16), num_classes=10, width=4)
    x, expected = torch.randn(2, 3, 16, 16), []
    for number, unit in enumerate(units):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: (kept.append(t), t)[1], lambda t: t):
            y = unit(x.detach().requires_grad_(number > 0))
        owned = {t.untyped_storage().data_ptr() for t in (*unit.parameters(), *unit.buffers())}
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
        expected.append(sum(size for address, size in storages.items() if address not in owned))
        x = y
    assert [w.saved_bytes for w in measure(units, (3, 16, 16), 2)] == expected


def test_measuring_leaves_the_network_alone():
    units = networks.build("resnet-small", input_shape=(3, 16, 16), num_classes=10)
    before = {k: v.clone() for k, v in nn.Sequential(*units).state_dict().items()}
    network_costs(units, (3, 16, 16), 2)
    after = nn.Sequential(*units).state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(not m._forward_hooks for u in units for m in u.modules())


def test_halves_make_the_whole():
    for work in (Work(6.0), Work(2 * 4 * 5 * 3, (Gemm(4, 5, 3),)), Work(2 * 4 * 3, (Gemm(4, 1, 3),))):
        first, second = work.halves()
        assert first.flops + second.flops == pytest.approx(work.flops)
        assert first.flops >= second.flops
        assert all(sum(g.flops for g in half.gemms) == half.flops or not half.gemms for half in (first, second))


def test_wrong_inputs_name_the_stage_and_the_remedy():
    with pytest.raises(UserError, match=r"stage 1 cannot take an input of shape \[2, 5\].*input shape"):
        measure([nn.Linear(3, 5), nn.Linear(4, 5)], (3,), 2)
    with pytest.raises(UserError, match="batch size is 0"):
        measure([nn.Linear(3, 5)], (3,), 0)


def test_cycles_equal_those_of_scalesim():
    lines = Path(__file__).with_name("scalesim_cycles.csv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert len(rows) == 96
    for row in rows:
        m, n, k = (int(row[key]) for key in "mnk")
        array = SystolicArray(int(row["rows"]), int(row["columns"]), row["dataflow"])
        assert array.cycles(Gemm(m, n, k)) == int(row["cycles"]), row


def test_unknown_shapes_are_refused_by_arrays_only():
    class Product(nn.Module):
        def forward(self, x):
            return x @ x.transpose(1, 2)

    (work,) = measure([Product()], (4, 4), 2)
    assert FlopDevice(1.0).seconds(work.forward) == 2 * 2 * 4 * 4 * 4
    with pytest.raises(UserError, match=r"come from no Linear or Conv layer.*FlopDevice"):
        SystolicArray().seconds(work.forward)
