"""The report's sections on what needs no training run: derivation, stability, costs, simulated schedules."""

from __future__ import annotations

from paper_figures import tables_theory
from paper_figures.claims.costs import layerpipe_in_our_model
from paper_figures.figures.reconstruction_theory import misfit
from paper_figures.records import Records
from paper_figures.render import Block, Bullets, Heading, Image, Table, Text
from paper_figures.style import style
from paper_figures.theory_records import Theory


def derivation(theory: Theory) -> list[Block]:
    """The steps as drawings, and what is proven of them."""
    return [
        Heading("The derivation of the delays"),
        Text(
            "Training is a signal-flow graph with feedback: every update's loop has one register, the weights, and so "
            "cannot simply be pipelined. Registers may be put into feed-forward cutsets, where they only make results "
            "later, and on the edges from a gradient to its update, where they make gradients older. Retiming then "
            "moves them to the stage boundaries. `layerpipe2 derive` does this for any network and grouping."
        ),
        Image("derivation_per_layer", "One layer per stage: the four steps, from sequential training to the pipeline."),
        Image("derivation_grouped", "Five layers in stages of two, two and one; layers of a stage share its delay."),
        Image("derivation_residual", "A residual block as one stage: its branches move with it, and it has one delay."),
        Image("derivation_pipedream", "PipeDream's delays from the same steps with a clock of two ticks per batch."),
        Text("Every proof is computed for every network and group size.", "What is proven."),
        Table(tables_theory.proof_counts(theory)),
    ]


def stability(records: Records) -> list[Block]:
    """What a delay costs in learning rate, and how well the past can be rebuilt: theory against measurement."""
    return [
        Heading("Theory against measurement: stability and reconstruction"),
        Text(
            "A late gradient bounds the learning rate: on a quadratic of curvature λ, descent with delay d is stable "
            "exactly below ηλ = 2 sin(π / (4d + 2)). Without a delay momentum raises this bound; with one it lowers "
            "it, by far more. `layerpipe2 stability` gives it for any partition."
        ),
        Image("stability", "Largest stable step over the delay, growth around the bound, and a deep linear network."),
        Text(
            "Each decay rule has an error in closed form if the updates are correlated like AR(1) noise. With the "
            "optimizer's momentum as the correlation it is a prediction without a free number; fitted, it has two. "
            + _misfit(records)
        ),
        Image("reconstruction_theory", "Error of the reconstructed weights over the delay: theory and training runs."),
    ]


def _misfit(records: Records) -> str:
    """How far off the prediction without a free number is."""
    told = [f"{style(name).label} {low:+.0%} to {high:+.0%}".replace("%", " %")
            for name, (low, high) in misfit(records).items()]  # fmt: skip
    return f"Measured errors over that prediction, less one, over networks and delays: {'; '.join(told) or 'none'}."


def costs() -> list[Block]:
    """C7 as a figure, and what is stored."""
    return [
        Heading("Costs of a partition"),
        Image("costs_tradeoff", "Above: work of the slowest stage against communication (C7); below: modelled speed."),
        Image("costs_memory", "Modelled memory of all stages against the group size."),
    ]


def schedules(theory: Theory) -> list[Block]:
    """Simulated schedules, and where LayerPipe's published gain falls in this model."""
    processors = theory.schedules["processors"]
    scope = f"{processors.min()} to {processors.max()} modelled processors"
    return [
        Heading("Simulated schedules, and where LayerPipe's numbers fall"),
        Text(
            f"An event-driven simulator runs every schedule on {scope}, for {theory.schedules['network'].nunique()} "
            "networks. LayerPipe (the predecessor paper) reports its speed over PipeDream; its placement of tasks and "
            "its device are not known to us, so what follows is our reading of it on a device that we declare, and no "
            "verdict."
        ),
        Bullets(layerpipe_in_our_model(theory.schedules)),
        Image("gantt_equal", "Six schedules on four processors with equal stages."),
        Image("gantt_unequal", "Five unequal layers on four processors: finer tasks balance what whole layers cannot."),
        Image("schedules_speed", "Simulated speed over PipeDream against the number of processors."),
        Image("schedules_devices", "LayerPipe's speed over PipeDream on other devices: the gain depends on them."),
        Text("All networks and numbers of processors together.", "Schedules."),
        Table(tables_theory.schedule_means(theory)),
        Text("A dash: interleaving needs two units per processor.", "Speed over PipeDream, P processors."),
        Table(tables_theory.speeds(theory)),
        Text("LayerPipe's speed over PipeDream.", "Devices."),
        Table(tables_theory.devices(theory)),
    ]
