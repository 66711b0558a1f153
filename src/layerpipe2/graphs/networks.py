"""GraphSAGE, GIN and GAT on sampled neighbourhoods, as flat lists of units for a pipeline.

A unit takes the table of :mod:`layerpipe2.graphs.sampler` and gives it on: its own columns of neighbours are gone, only
the rows that the next unit reads are left, and their features are new. The last unit's table is the logits. The layers
are torch-geometric's, which treat a sampled block as a bipartite graph.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerpipe2.errors import LARGEST, UserError, install_command, integer, look_up, shown
from layerpipe2.graphs.csr import Graph
from layerpipe2.graphs.kernels import NO_DESTINATION


class SampledLayer(nn.Module):
    """One layer of a graph network as a unit of a pipeline.

    Args:
        convolution: maps ((N, features), (n, features)) and the edges int64 (2, E) to (n, outputs), as the layers of
            torch-geometric do.
        features: columns of the table before the neighbours.
        k: columns of this layer's neighbours.
        last: whether this is the output, without an activation.
        dropout: share of the outputs that is set to zero while training.
    """

    def __init__(self, convolution: nn.Module, features: int, k: int, *, last: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.convolution, self.features, self.k, self.last, self.dropout = convolution, features, k, last, dropout

    def forward(self, x: Tensor) -> Tensor:
        """Turn a table (N, features + k + rest) into one (n, outputs + rest): n of the rows have a place here.

        Raises:
            UserError: if the table is in low precision, which can't number its rows, or one of another fan-out.
        """
        if x.dtype not in (torch.float32, torch.float64):
            raise UserError(f"{x.dtype} can't number the nodes of a sampled mini-batch; train graphs in float32")
        end = self.features + self.k
        if x.shape[1] < end or (self.last and x.shape[1] > end):
            raise UserError(
                f"a mini-batch has {x.shape[1]} columns where a layer of {self.features} features reads {self.k} "
                "neighbours; give network and loader the same fan-out, and one number per layer"
            )
        features, numbers = x[:, : self.features], x[:, self.features :].detach()
        block = numbers[:, : self.k]
        first, final = (block[:, [0, -1]] > NO_DESTINATION).sum(0).tolist()
        block = block[:first]
        is_neighbour = block >= 0
        # Where sums agree and fan-outs don't, some layer's columns are of two hops: fewer nodes have a place in the
        # second, or some row's neighbours begin anew behind its last one. Or two layers share a hop: the first of them
        # cut off rows that the second reads.
        anew, cut = is_neighbour[:, 1:] > is_neighbour[:, :-1], block >= len(x)
        if first != final or bool(anew.any() | cut.any()):
            raise UserError(
                f"a layer that reads {self.k} neighbours finds columns of other layers; give network and loader the "
                "same fan-out, in the same order"
            )
        target, which = is_neighbour.nonzero(as_tuple=True)
        edges = torch.stack([block[target, which].long(), target])
        y: Tensor = self.convolution((features, features[: len(block)]), edges)
        if self.last:
            return y
        y = F.dropout(F.relu(y), self.dropout, self.training)
        return torch.cat([y, numbers[: len(block), self.k :]], 1)


@dataclass(frozen=True)
class GraphNetwork:
    """A network by name.

    Attributes:
        name, label: in options and for readers.
        source: the paper.
        layer: (inputs, outputs) -> a layer of torch-geometric.
    """

    name: str
    label: str
    source: str
    layer: Callable[[int, int], nn.Module]


def _sage(inputs: int, outputs: int) -> nn.Module:
    from torch_geometric.nn.conv import SAGEConv

    return SAGEConv(inputs, outputs)  # type: ignore[no-any-return]


def _gin(inputs: int, outputs: int) -> nn.Module:
    from torch_geometric.nn.conv import GINConv

    # A trained epsilon would make a weight (1 + epsilon) from a weight, which no recalled weight can replace.
    return GINConv(nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, outputs)))  # type: ignore[no-any-return]


def _gat(inputs: int, outputs: int) -> nn.Module:
    from torch_geometric.nn.conv import GATConv

    return GATConv(inputs, outputs)  # type: ignore[no-any-return]


_ROWS = (
    GraphNetwork("sage", "GraphSAGE", "Hamilton et al. 2017: mean of the neighbours, and the node itself", _sage),
    GraphNetwork("gin", "GIN", "Xu et al. 2019: sum of the neighbours and the node, then two layers", _gin),
    GraphNetwork("gat", "GAT", "Velickovic et al. 2018: neighbours weighted by attention, one head", _gat),
)
GRAPH_NETWORKS: dict[str, GraphNetwork] = {row.name: row for row in _ROWS}
"""Name -> network."""


def build(
    name: str, graph: Graph, fan_out: Sequence[int], *, width: int = 256, dropout: float = 0.0
) -> list[nn.Module]:
    """Make a network as a flat list of units, one per number in ``fan_out``; weights from torch's generator.

    Args:
        name: a key of :data:`GRAPH_NETWORKS`.
        graph: whose features come in, and whose classes come out.
        fan_out: of the loader, from the mini-batch's nodes outwards: the last number belongs to the first layer.
        width: features of the hidden layers.
        dropout: behind all layers but the last, from 0 to less than 1.

    Raises:
        UserError: on an unknown name or a number out of range; if torch-geometric isn't installed.
    """
    network = look_up(GRAPH_NETWORKS, name, "graph network")
    integer(width, f"graph network {name}: width", 1, LARGEST)
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UserError(f"graph network {name}: dropout is {shown(dropout)}; give a number from 0 to less than 1")
    fan_out = graph.checked_fan_out(fan_out)
    ends = [graph.features.shape[1], *[width] * (len(fan_out) - 1), graph.num_classes]
    try:
        layers = [network.layer(a, b) for a, b in pairwise(ends)]
    except ModuleNotFoundError as error:
        raise UserError(f"graph networks need {error.name}; run {install_command('graphs')}") from None
    made = zip(layers, ends, reversed(fan_out), strict=False)
    return [SampledLayer(layer, inputs, k, last=layer is layers[-1], dropout=dropout) for layer, inputs, k in made]
