"""Tables of the regime map, as text for readers."""

import pandas as pd

from paper_figures import variant_style
from paper_figures.records.pipelines import label as benchmark_label
from paper_figures.records.regimes import POINT, Regimes
from paper_figures.text import percent


def speeds(regimes: Regimes) -> pd.DataFrame:
    """A row per place and point: sizes, and every choice's speed over one process, the fastest one's in bold."""
    found, names = regimes.summary(), variant_style.ordered(regimes.choices["variant"])
    winners, rows = regimes.winners().set_index([*POINT, "place"]), []
    for place in regimes.places:
        for point, mine in found[found["place"] == place].groupby(POINT, sort=False):
            mine, winner = mine.set_index("variant"), winners.loc[(*point, place)]
            network, width, batch = point
            cells = [place, f"{benchmark_label(network)}, width {width}", str(batch)]
            cells += [f"{mine[key].iloc[0] / 1e6:.2f}" for key in ("parameter_bytes", "cut_bytes")]
            cells += [f"{1e3 * winner['step']:.1f}"]
            for name in names[1:]:
                text = f"{mine.loc[name, 'speed']:.2f}×" if name in mine.index else "–"
                cells.append(f"**{text}**" if name == winner["fastest"] else text)
            rows.append([*cells, variant_style.label(winner["foretold"])])
    head = ["place", "network", "mini-batch", "weights (MB)", "activations at the cut (MB)", "one process (ms)"]
    return pd.DataFrame(rows, columns=[*head, *map(variant_style.label, names[1:]), "predicted fastest"])


def rules(regimes: Regimes) -> pd.DataFrame:
    """What it costs to follow the prediction, or a rule: by place, everywhere, and at the points held out."""
    winners = regimes.winners()
    losses = {"the predicted fastest": winners["loss"]}
    losses |= {"the best rule of each place, known afterwards": regimes.hindsight()[1]}
    losses |= {f"always {variant_style.label(name)}": loss for name, loss in regimes.rules().items()}
    parts = {place: winners["place"] == place for place in regimes.places}
    parts |= {"everywhere": winners["held_out"] | True, "held out": winners["held_out"]}
    rows = []
    for name, loss in losses.items():
        chosen = [loss[part.to_numpy()] for part in parts.values()]
        cells = [f"{(one == 0).sum()}/{len(one)}, {1 + one.mean():.2f}×" if len(one) else "–" for one in chosen]
        rows.append([name, *cells, f"{1 + loss.max():.2f}×"])
    return pd.DataFrame(rows, columns=["choice", *parts, "at most"])


def errors(regimes: Regimes) -> pd.DataFrame:
    """Measured over predicted time, less one, by choice and place: the median over the points, and the ends."""
    found, rows = regimes.errors(), []
    for name in variant_style.ordered(found["variant"]):
        cells = [variant_style.label(name)]
        for place in regimes.places:
            values = found[(found["variant"] == name) & (found["place"] == place)]["error"]
            ends = f" ({percent(values.min(), '+.0f')} to {percent(values.max(), '+.0f')})" if len(values) else ""
            cells.append(f"{percent(values.median(), '+.0f')}{ends}" if len(values) else "–")
        rows.append(cells)
    return pd.DataFrame(rows, columns=["measured over predicted time, less one", *regimes.places])
