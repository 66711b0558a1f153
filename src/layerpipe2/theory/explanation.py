"""A derivation as text: where delays may go, the steps, the proofs."""

from __future__ import annotations

from collections import Counter

from layerpipe2.theory.cutsets import DELAYED_GRADIENT, FEED_FORWARD, LOOP, places
from layerpipe2.theory.derivation import Derivation
from layerpipe2.theory.proofs import prove
from layerpipe2.theory.text import legend

_PLACES = {
    FEED_FORWARD: "take registers with a feed-forward cutset",
    DELAYED_GRADIENT: "take a delayed gradient",
    LOOP: "lie on a loop and take registers by retiming only",
}


def explain(derivation: Derivation) -> str:
    """Places, steps and proofs of a derivation; of the rounds of step 4 the first and the last."""
    clock, steps = derivation.clock, derivation.steps
    head = f"{clock.name}: {clock.text}\nunits per stage: {', '.join(map(str, derivation.sizes))}"
    kinds = Counter(places(derivation.pipeline).values())
    legal = "edges: " + ", ".join(f"{kinds[kind]} {text}" for kind, text in _PLACES.items())
    tables = [step.table() for step in steps if "." not in step.number or step is steps[-1]]
    claims = "\n".join(str(claim) for claim in prove(derivation))
    return "\n\n".join([head, legal, legend(), *tables, f"proofs\n{claims}"])
