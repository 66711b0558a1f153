"""Claims on delays and memory, C1 to C5: on recorded delays, sizes and copies, and on what the derivations prove."""

import math
from collections.abc import Sequence

import pandas as pd

from layerpipe2.delays import DELAY_LAWS
from layerpipe2.lab.judging.designs import STASH
from paper_figures.grouping.costs import history_is_a_cost
from paper_figures.page import report
from paper_figures.records import CONFIGURATION, Records
from paper_figures.text import law_label, network_label
from paper_figures.theory import Theory
from paper_figures.verdicts import Answer, Verdict, both, exact

FORMAL = ("function", "places", "pipelined", "least delay", "uniqueness", "minimality", "period")
"""Proofs (keys of ``layerpipe2.theory.prove``) that make a derivation formal, beyond the delays that come out."""


def _with_law(records: Records) -> pd.DataFrame:
    """Recorded stages of pipelined partitions, with count (K), downstream (S) and law (the delay law's delay)."""
    count = records.stages.groupby(CONFIGURATION)["stage"].transform("size")
    rows = records.stages.assign(count=count, downstream=count - 1 - records.stages["stage"])[count > 1]
    if records.convention not in ("layerpipe2", "pipedream"):  # no delays, or no law
        return rows.iloc[:0].assign(law=0)
    laws = [DELAY_LAWS[records.convention].delays(k)[s] for k, s in zip(rows["count"], rows["stage"], strict=True)]
    return rows.assign(law=laws)


@report.claim("C1")
def structure_alone(records: Records, theory: Theory) -> Verdict:
    """Judge C1 on the recorded delays of all stages.

    Claim: The delay that a layer's gradient needs follows from the network's structure alone: late layers few
    updates, early layers many.

    Test: Exact: each recorded delay equals the law of the stage count, falls towards the output, and the largest
    delay is the same in all runs with as many stages. And the law itself is derived for networks of these kinds at
    every group size, without putting it in.
    """
    rows = _with_law(records)
    off = int((rows["delay"] != rows["law"]).sum())
    steps = rows.sort_values("stage").groupby(CONFIGURATION)["delay"].diff().dropna()
    runs = records.runs[records.runs["num_stages"] > 1]
    varying = int((runs.groupby("num_stages")["max_delay"].nunique() > 1).sum())
    rising = int((steps >= 0).sum())
    partitions = rows[CONFIGURATION].drop_duplicates()
    same, known = against_derivation(rows, theory, records.convention)
    proven, sentence = derived(theory, records.convention, ("delay law", "engine"))
    evidence = (
        f"{off} of {len(rows)} stages in {len(partitions)} partitions of {partitions['network'].nunique()} networks "
        f"deviate from the law '{law_label(records.convention)}'; {rising} of {len(steps)} steps towards the "
        f"output do not fall; {varying} of {runs['num_stages'].nunique()} stage counts show more than one largest "
        f"delay over {len(runs)} runs (strategies, seeds, networks).",
        f"The training engine sets the delays from this law, so the records alone could not contradict it. {sentence} "
        f"{same} of {known} recorded partitions that were derived as well have the derived delays.",
    )
    recorded = exact(off + rising + varying + known - same, len(rows))
    return Verdict(answer=both(recorded, proven), evidence=evidence)


@report.claim("C2")
def downstream_stages(records: Records, theory: Theory) -> Verdict:
    """Judge C2 on the recorded delays of all layers.

    Claim: Pipelined at every layer, the delay of a layer depends only on the number of downstream stages.

    Test: Exact, on the partitions with one unit per stage: layers with as many downstream stages have one delay in
    all networks, and it is the law's. And the law itself is derived for networks of these kinds at every group
    size, without putting it in.
    """
    rows = _with_law(records)
    rows = rows[rows["group_size"] == 1]
    kinds = rows.groupby("downstream")["delay"].nunique()
    off = int((rows["delay"] != rows["law"]).sum()) + int((kinds > 1).sum())
    pairs = rows.groupby("downstream")["delay"].first()
    known = ", ".join(f"{s}: {d}" for s, d in pairs.items())
    proven, sentence = derived(theory, records.convention, ("delay law",), grouped=False)
    evidence = (
        f"{len(rows)} layers of {rows['network'].nunique()} networks; delay by downstream stages: {known or 'none'}; "
        f"{off} violations.",
        sentence,
    )
    return Verdict(answer=both(exact(off, len(rows)), proven), evidence=evidence)


@report.claim("C3")
def shared_delay(records: Records, theory: Theory) -> Verdict:
    """Judge C3 on the recorded delays of all groups.

    Claim: Pipelined in groups, all layers of a group share one delay.

    Test: Exact, on the partitions with several units per stage: L layers make ceil(L/g) groups, and each group has
    one delay, the law's for its place. And the law itself is derived for networks of these kinds at every group
    size, without putting it in.
    """
    rows, units = _with_law(records), records.units()
    rows = rows[(rows["group_size"] > 1) & rows["network"].isin(units)]
    off, n, lines = 0, 0, []
    for (network, group), stages in rows.groupby(CONFIGURATION):
        length = units[str(network)]
        off += int(len(stages) != math.ceil(length / group)) + int((stages["delay"] != stages["law"]).sum())
        n += length
        delays = " ".join(map(str, stages.sort_values("stage")["delay"]))
        lines.append(f"{network_label(str(network))}: {length} layers in groups of {group}, delays {delays}")
    proven, sentence = derived(theory, records.convention, ("groups", "delay law"), grouped=True)
    evidence = ("; ".join(lines) + f"; {off} violations." if lines else "No grouped partition is recorded.", sentence)
    return Verdict(answer=both(exact(off, n), proven), evidence=evidence)


@report.claim("C4")
def formal_derivation(theory: Theory) -> Verdict:
    """Judge C4 on the proofs alone.

    Claim: The delays can be derived formally, by delayed-gradient adaptation and retiming.

    Test: Exact, by program: sequential training as a signal-flow graph; registers inserted in feed-forward cutsets
    and on gradient -> update edges only (each insertion checked against the graph's loops); then retiming along
    cutsets, which keeps the delay of every loop and path. Reproduced if this reaches the pipeline for every network
    and group size, with no smaller delay possible for any layer (loops counted edge by edge, systems of constraints
    infeasible), one retiming only, registers as few as a linear program finds, and a clock period that Leiserson
    and Saxe's algorithm does not beat.
    """
    broken, lines, n = 0, [], 0
    for convention, mine in theory.proofs.groupby("convention", sort=False):
        used = mine[mine["claim"].isin(FORMAL)]
        counts = used.groupby("claim", sort=False)["holds"].agg(["sum", "size"])
        true = ", ".join(f"{claim} {row['sum']} of {row['size']}" for claim, row in counts.iterrows())
        broken, n = broken + int((~used["holds"]).sum()), n + len(used)
        lines.append(f"{law_label(str(convention))}, {_scope(mine)}: {true}.")
    evidence = (
        *lines,
        "The number of delays is not put in: it is the least that the loops of the graph allow. PipeDream's S comes "
        "out of the same moves with a clock in which a stage does a forward or a backward task per tick, not both.",
        "The four steps are known to us from summaries of the paper; which cutsets its step 3 means is our reading.",
    )
    return Verdict(answer=exact(broken, n), evidence=evidence)


@report.claim("C5")
def memory_cost(records: Records, theory: Theory) -> Verdict:
    """Judge C5 on recorded copies, the proofs and the cost model.

    Claim: Pipelining needs historical weights, and storing them is a memory cost.

    Test: Exact: stash copies equal sum(delay x parameters) / sum(parameters), and grow with every step to more
    stages of the same network; the derivation finds as many old weights as the delay; and in the cost model
    stashing is free with one stage only and largest with one unit per stage.
    """
    stages = records.stages.assign(weighted=records.stages["delay"] * records.stages["parameters"])
    sums = stages.groupby(CONFIGURATION)[["weighted", "parameters"]].sum()
    expected = (sums["weighted"] / sums["parameters"]).rename("expected").reset_index()
    stash = records.runs[(records.runs["strategy"] == STASH) & (records.runs["num_stages"] > 1)]
    stash = stash.drop_duplicates(CONFIGURATION).merge(expected, on=CONFIGURATION)
    wrong = int(((stash["history_copies"] - stash["expected"]).abs() > 1e-6 * (1 + stash["expected"])).sum())
    n, flat, lines = 0, 0, []
    for network, mine in stash.sort_values("num_stages").groupby("network"):
        steps = mine["history_copies"].diff().dropna()
        n, flat = n + len(steps), flat + int((steps <= 0).sum())
        copies = mine.set_index("num_stages")["history_copies"].items()
        lines.append(f"{network_label(str(network))}: " + ", ".join(f"{c:.2f} at {k} stages" for k, c in copies))
    needed, sentence = derived(theory, records.convention, ("history",))
    modelled, costs = history_is_a_cost(theory.partitions)
    evidence = (
        f"Copies of the parameters beside the latest: {'; '.join(lines) or 'none recorded'}. {flat} of {n} steps to "
        f"more stages do not grow; {wrong} of {len(stash)} partitions differ from the sum over stages.",
        f"Why it is needed: after retiming, the registers between an update and the backward task that reads its "
        f"weights are as many as the delay. {sentence}",
        f"{costs} Nothing here is measured on hardware.",
    )
    return Verdict(answer=both(exact(flat + wrong, n), needed, modelled), evidence=evidence)


def derived(theory: Theory, convention: str, claims: Sequence[str], grouped: bool | None = None) -> tuple[Answer, str]:
    """Answer and sentence on some proofs of the derivations with a delay law.

    Args:
        theory: the tables.
        convention: the delay law of the records.
        claims: keys of the proofs.
        grouped: only derivations with several units per stage (True) or one (False).
    """
    mine = theory.proofs[(theory.proofs["convention"] == convention) & theory.proofs["claim"].isin(claims)]
    if grouped is not None:
        mine = mine[(mine["group_size"] > 1) == grouped]
    if mine.empty:
        return Answer.UNDECIDED, f"No derivation with the delays of '{law_label(convention)}' was made."
    failed = int((~mine["holds"]).sum())
    laws = mine.groupby("stages")["delays"].nunique()
    mixed = int((laws > 1).sum())
    return exact(failed + mixed, len(mine)), (
        f"Derived without the law, from the loops of the training graph: {_scope(mine)}; {failed} of {len(mine)} "
        f"proofs ({', '.join(claims)}) fail; {mixed} of {len(laws)} stage counts have other delays in another network."
    )


def against_derivation(stages: pd.DataFrame, theory: Theory, convention: str) -> tuple[int, int]:
    """Recorded partitions that have the derived delays, and those whose derivation is there to compare with."""
    mine = theory.proofs[theory.proofs["convention"] == convention].drop_duplicates(["network", "group_size"])
    law = {(row.network, row.group_size, row.stages): row.delays for row in mine.itertuples()}
    same = known = 0
    for (network, group), rows in stages.groupby(["network", "group_size"]):
        key = (network, group, len(rows))
        if key in law:
            known += 1
            same += " ".join(map(str, rows.sort_values("stage")["delay"])) == law[key]
    return same, known


def _scope(proofs: pd.DataFrame) -> str:
    networks = ", ".join(map(network_label, dict.fromkeys(proofs["network"])))
    count = len(proofs[["network", "group_size", "convention"]].drop_duplicates())
    return f"{count} derivations ({networks}, {proofs['stages'].min()} to {proofs['stages'].max()} stages)"
