"""What every strategy of the table must do, whatever its method: a new row is tested by being there."""

import copy
import doctest
import pickle
import re
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import layerpipe2.delays
import layerpipe2.strategies.chained
import layerpipe2.strategies.pair
from layerpipe2 import Delays, UserError, find_strategy, make_strategy
from layerpipe2.errors import shown
from layerpipe2.lab.looks import look
from layerpipe2.strategies import STRATEGIES, RawAverage, StashFirst, Strategy, begin, count, raw_forms
from layerpipe2.strategies.base import COUNTERS
from layerpipe2.strategies.latest import Latest
from layerpipe2.strategies.moments import Updates
from tests.strategies.recalling import NoOptimizer, delayed, engine, line, losses, recall_along, walk

NAMES = [*STRATEGIES, *raw_forms(), "ema-0.5", "ema-0.95", "pair-0", "pair-0.5"]
DELAYS = [1, 2, 5, 18]
BAD = {
    "": "known: sequential, stash, latest,",
    **dict.fromkeys(["ema", "ema-", "ema-x"], "did you mean 'ema-lsq'"),
    "Stash": "did you mean 'stash'",
    "latest-raw": "did you mean 'latest'",
    "stash-raw": "did you mean 'stash'",
    "window": "did you mean 'ema-window'",
    **dict.fromkeys(["pair-", "pairs", "pair-x"], "did you mean 'pair'"),
    "pair-0.9-raw": "did you mean 'pair-0.9'",
    **dict.fromkeys(["ema-0.9 ", "ema-\u0660.\u0669", "ema-0_0.9"], "did you mean 'ema-0.9'"),
    **dict.fromkeys([None, 7, "ema-0." + "9" * 40], "known: sequential, stash, latest,"),
}
OUT_OF_RANGE = ["ema-0", "ema-1", "ema-1.5", "ema--0.1", "ema-nan", "ema-inf", "pair-1", "pair-1.5", "pair--0.1"]

names = pytest.mark.parametrize("name", NAMES)
delays = pytest.mark.parametrize("delay", DELAYS)


@names
def test_a_row_says_what_readers_and_figures_need(name):
    row = find_strategy(name)
    assert row.name == name
    assert row.label
    assert row.description
    assert re.fullmatch(r"#[0-9a-f]{6}", look(name).colour)
    assert row.raw == isinstance(row.make(), RawAverage)
    assert row.exact == (row.family in ("sequential", "stash", "window"))
    assert find_strategy(f"{name}-warm").plain == row.plain == name.removesuffix("-raw")


def test_no_two_rows_look_alike():
    drawn = [*STRATEGIES, *raw_forms(), "ema-0.5", "ema-0.95", *(f"{name}-warm" for name in STRATEGIES)]
    looks = {(row.colour, row.marker, row.dash, row.filled) for row in map(look, drawn)}
    assert len(looks) == len({find_strategy(name).label for name in drawn}) == len(drawn)
    assert list(STRATEGIES) == [row.name for row in STRATEGIES.values()]


@names
def test_it_can_be_pickled(name):
    strategy = make_strategy(name)
    found = pickle.loads(pickle.dumps(strategy))
    assert (found.name, found.kind) == (strategy.name, strategy.kind)
    mine, theirs = (one.init(torch.zeros(3), 5) for one in (strategy, found))
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@names
@delays
def test_the_state_is_tensors_that_change_in_place(name, delay):
    """A CUDA graph of the step keeps the addresses; a checkpoint keeps the values."""
    strategy, path = make_strategy(name), walk(30)
    state = begin(strategy, path[0], delay)
    kept, start = dict(state), copy.deepcopy(state)
    for t in range(len(path) - 1):
        strategy.forward(state, path[t], NoOptimizer(path[0]))
        strategy.gradient(state, path[t] - path[t + 1], path[t], path[t])
        after = path[t + 1]
        assert (strategy.update(state, path[t], after) is after) == (not strategy.changes_update)
        count(state, delay)
        before = copy.deepcopy(state)
        latest, used = path[t + 1].clone(), path[max(0, t + 1 - delay)].clone()
        recalled = strategy.backward(state, latest, used)
        assert recalled.shape == latest.shape
        assert recalled.dtype == latest.dtype
        assert torch.equal(latest, path[t + 1]), "backward changed the latest weights"
        assert torch.equal(used, path[max(0, t + 1 - delay)]), "backward changed the weights that were used"
        assert all(torch.equal(state[key], before[key]) for key in state), "backward changed the state"
    assert state.keys() == kept.keys()
    assert all(state[key] is kept[key] for key in state), "a tensor of the state was exchanged"
    assert set(strategy.constants) <= set(state)
    assert strategy.constants or not vars(strategy).keys() - {"name"}, "its parameters show in no constant"
    assert all(torch.equal(state[key], start[key]) for key in strategy.constants)
    changed = any(not torch.equal(state[key], start[key]) for key in state.keys() - set(COUNTERS))
    assert changed == strategy.acts("update")


@names
@delays
def test_recalled_weights_are_exact_where_they_must_be(name, delay):
    """Exact strategies always; the others at the start, where nothing or one update has to be remembered."""
    row, path = find_strategy(name), walk()
    recalled = recall_along(row.make(), path, delay)
    assert recalled.isfinite().all(), "it looks at weights that no hardware keeps"
    sure = len(recalled) if row.exact else 1 if row.family == "latest" else 2
    torch.testing.assert_close(recalled[:sure], delayed(path, delay)[:sure], rtol=0, atol=1e-12)


@names
def test_modelled_memory(name):
    history = make_strategy(name)
    for with_buffer in (True, False):
        copies = [history.copies(delay, momentum_buffer=with_buffer) for delay in range(9)]
        assert copies[0] == 0
        assert copies == sorted(copies)
        beside = find_strategy(name).family == "field"  # those that act on the delay have a stash and one copy more
        assert all(count <= max(delay + beside, 2) for delay, count in enumerate(copies))
    assert all(history.copies(d) <= history.copies(d, momentum_buffer=False) for d in range(9))


@names
def test_coefficients_of_the_theory_are_those_of_the_method(name):
    """On equal updates ``A = u_0 = u``: what is recalled is ``W(t) + (x + y) u``."""
    history, delay = make_strategy(name), 5
    found = history.coefficients(delay, Updates(drift=1e6))
    if found is not None:
        decay, x, y = found
        path = line(400)
        added = (recall_along(history, path, delay)[-1] - path[-2]) / (path[-2] - path[-1])
        assert added.tolist() == pytest.approx([x + y] * 2, rel=1e-6)
        assert 0 <= decay < 1


def warmed(name: str, updates: int | None) -> Strategy:
    return make_strategy(name) if updates is None else StashFirst(then=make_strategy(name), updates=updates)


@names
@pytest.mark.parametrize("warm_up", [None, 9])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(name, warm_up):
    whole, optimizer = engine(warmed(name, warm_up))
    losses(whole, optimizer, range(11))
    saved, weights, moments = (
        copy.deepcopy(part.state_dict()) for part in (whole, nn.Sequential(*whole.stages), optimizer)
    )
    expected = losses(whole, optimizer, range(11, 16))
    resumed, optimizer = engine(warmed(name, warm_up))
    nn.Sequential(*resumed.stages).load_state_dict(weights)
    optimizer.load_state_dict(moments)
    resumed.load_state_dict(saved)
    assert losses(resumed, optimizer, range(11, 16)) == expected


@names
def test_without_delay_it_is_ordinary_training(name):
    mine, plain = (engine(make_strategy(n), Delays.custom([0] * 4)) for n in (name, "sequential"))
    assert losses(*mine, range(5)) == losses(*plain, range(5))


@names
@pytest.mark.parametrize("warm_up", [None, 9])
def test_a_checkpoint_with_another_constant_is_refused(name, warm_up):
    made, _ = engine(warmed(name, warm_up))
    for constant in made.strategy.constants:
        saved = copy.deepcopy(made.state_dict())
        saved["stages"]["1"]["strategy"][constant] += 1
        with pytest.raises(UserError, match="resume with the same"):
            made.load_state_dict(saved)


@pytest.mark.parametrize("name", BAD)
def test_unknown_names(name):
    with pytest.raises(UserError, match=re.escape(f"unknown strategy {shown(name)}; {BAD[name]}")):
        make_strategy(name)


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_numbers_out_of_range(name):
    kind, _, number = name.partition("-")
    what = {"ema": "decay", "pair": "correlation"}[kind]
    with pytest.raises(UserError, match=f"has {what} {number}; give a {what} between 0 and 1, as in {kind}-0.9"):
        make_strategy(name)


@pytest.mark.parametrize(
    "module", [layerpipe2.strategies, layerpipe2.strategies.chained, layerpipe2.strategies.pair, layerpipe2.delays]
)
def test_traced_examples(module):
    result = doctest.testmod(
        module, extraglobs={name: getattr(module, name) for name in getattr(module, "__all__", ())}
    )
    assert result.attempted > 0
    assert result.failed == 0


@dataclass(frozen=True)
class Damped(Latest):
    """A new method: a part of the latest weights, with a constant of its own name."""

    damping: float = 1.0

    @property
    def constants(self) -> tuple[str, ...]:
        return ("damping",)

    def init(self, weights: Tensor, delay: int) -> dict[str, Tensor]:
        return {"damping": weights.new_full((1,), self.damping)}


@pytest.mark.parametrize("wrap", [lambda method: method, lambda method: StashFirst(then=method, updates=9)])
def test_the_constants_of_a_new_method_are_checked_on_resume(wrap):
    saved = engine(wrap(Damped(damping=0.5)))[0].state_dict()
    engine(wrap(Damped(damping=0.5)))[0].load_state_dict(copy.deepcopy(saved))
    with pytest.raises(UserError, match="resume with the same"):
        engine(wrap(Damped(damping=0.6)))[0].load_state_dict(copy.deepcopy(saved))


def test_which_averages_follow_the_delay():
    """An average of a fixed decay doesn't; the pair does, whatever correlation it takes for granted."""
    names = ("ema-window", "ema-running", "ema-span", "ema-lsq", "pair", "pair-0.9", "ema-0.9", "latest", "stash")
    assert [find_strategy(name).aware for name in names] == 6 * [True] + 3 * [False]
