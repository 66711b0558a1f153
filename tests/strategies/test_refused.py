"""Mistakes in a strategy of one's own: one line that names strategy, stage and place, in the first steps."""

from dataclasses import dataclass

import pytest
import torch

from layerpipe2 import Delays, UserError, make_strategy
from layerpipe2.strategies import MovingAverage, StashFirst, Strategy, chain
from layerpipe2.strategies.pair import Pair
from tests.strategies.recalling import engine, losses


def made(**places) -> Strategy:
    """A strategy with these functions and attributes, each function without ``self``."""
    own = {
        key: (lambda f: lambda self, *given: f(*given))(value) if callable(value) else value
        for key, value in places.items()
    }
    return dataclass(frozen=True)(type("Own", (Strategy,), own))()


def keeping(weights, delay):
    return {"kept": torch.zeros_like(weights)}


def reassigned(state, before, after):
    state["kept"] = before - after
    return after


LIKE = "returns no tensor like the weights in"
BAD = {
    "two rows": (
        {"backward": lambda s, latest, used: torch.stack([used, used])},
        f"{LIKE} backward.*give torch.float64",
    ),
    "other type": ({"forward": lambda s, latest, o: latest.float()}, f"{LIKE} forward.*torch.float32"),
    "nothing": ({"gradient": lambda s, g, latest, used: None}, f"{LIKE} gradient.*NoneType"),
    "a number": ({"update": lambda s, before, after: 0.5}, f"{LIKE} update.*float"),
    "latest in place": (
        {"backward": lambda s, latest, used: latest.add_(1)},
        "changes its state or an argument in backward",
    ),
    "before in place": ({"update": lambda s, before, after: before.sub_(1)}, "changes an argument in update"),
    "gradient in place": ({"gradient": lambda s, g, latest, used: g.mul_(2)}, "changes an argument in gradient"),
    "state in backward": (
        {"init": keeping, "backward": lambda s, latest, used: used + 0 * s["kept"].add_(1)},
        "changes its state or an argument in backward",
    ),
    "reserved": (
        {"init": lambda w, d: {"line": w.clone()}},
        "calls an entry of its state 'line', a name of the engine's",
    ),
    "no tensor": ({"init": lambda w, d: {"kept": 0.5}}, "has a float in its state .'kept'.; make it a tensor"),
    "the weights": ({"init": lambda w, d: {"kept": w}}, "keeps the weights themselves in its state"),
    "constant": ({"constants": ("scael",)}, "names the constant 'scael', which its state lacks"),
    "needs": ({"needs_used": False}, "reads the weights of the forward pass, but needs_used is False"),
    "buffer": (
        {"forward": lambda s, latest, o: latest - o.state("exp_avg")},
        "asks SGD for a buffer 'exp_avg', which it",
    ),
    "setting": (
        {"forward": lambda s, latest, o: latest - o.setting("lrr")},
        "asks SGD for a number 'lrr', which it hasn't",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("wrap", [lambda own: own, lambda own: chain(own, made())], ids=["alone", "in a chain"])
def test_refused(case, wrap):
    places, message = BAD[case]
    with pytest.raises(UserError, match=message):
        losses(*engine(wrap(made(**places))), range(3))


@pytest.mark.parametrize("wrap", [lambda own: own, lambda own: chain(own, made())], ids=["alone", "in a chain"])
def test_a_state_is_changed_in_place_or_not_at_all(wrap):
    """A tensor that takes another's place would be lost in a chain and in a CUDA graph."""
    with pytest.raises(TypeError, match="does not support item assignment"):
        losses(*engine(wrap(made(init=keeping, update=reassigned))), range(3))


def test_what_is_said_not_to_be_needed_is_not_shown():
    own = made(needs_used=False, backward=lambda s, latest, used: latest + 0 * used)
    assert torch.tensor(losses(*engine(own), range(12)))[-1].isnan()


def test_a_view_of_another_layout_is_taken_by_its_values():
    strided = made(backward=lambda s, latest, used: torch.complex(used, used).real)
    assert losses(*engine(strided), range(5)) == losses(*engine(make_strategy("stash")), range(5))


def test_what_forward_returns_may_change_afterwards():
    """It is copied: in the line stands what the forward pass read."""

    def note(state, before, after):
        state["kept"].copy_(after)
        return after

    def shown(state, latest, optimizer):
        return state["kept"] if state["step"] else latest

    own = made(init=keeping, forward=shown, update=note)
    assert losses(*engine(own), range(9)) == losses(*engine(make_strategy("stash")), range(9))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *(
            (lambda n=n: StashFirst(then=make_strategy("latest"), updates=n), f"exact weights is {n}; give an integer")
            for n in (-1, 1.5, True)
        ),
        (lambda: StashFirst(then="ema", updates=3), "then is 'ema'; give the Strategy that takes over"),
        (
            lambda: StashFirst(then=StashFirst(then=make_strategy("latest"), updates=3), updates=3),
            "then is a StashFirst itself; give one",
        ),
        (lambda: MovingAverage(decay=0.9), r"^decay is 0\.9; give a function of the span, as lambda n: 0\.9$"),
        *(
            (
                lambda decay=decay: MovingAverage(decay=lambda n: decay).init(torch.zeros(3), 2),
                f"decay of span 2 is {decay}; it must be >= 0 and < 1",
            )
            for decay in (1.5, 1.0, -0.1, float("nan"))
        ),
        *(
            (lambda m=m: Pair(correlation=m), f"correlation is {m!r}; give a number >= 0 and < 1")
            for m in (1, 1.0, -0.1, True, "0.9")
        ),
    ],
)
def test_what_a_strategy_is_made_of(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_without_a_delay_a_strategy_is_not_asked():
    own = made(backward=lambda s, latest, used: None)
    assert losses(*engine(own, Delays.custom([0] * 4)), range(3)) == losses(
        *engine(make_strategy("stash"), Delays.custom([0] * 4)), range(3)
    )
