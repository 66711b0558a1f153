"""Training on sampled neighbourhoods of a graph, prepared and trained as a pipeline (after SALIENT, MLSys 2022).

``Graph`` holds a graph, ``SampledLoader`` makes mini-batches of it in threads, :mod:`layerpipe2.graphs.networks` has
GraphSAGE, GIN and GAT as lists of units for :class:`layerpipe2.PipelinedModule`. The extra ``graphs`` installs what
they need.
"""

from layerpipe2.graphs.csr import Graph
from layerpipe2.graphs.loader import SampledLoader

__all__ = ["Graph", "SampledLoader"]
