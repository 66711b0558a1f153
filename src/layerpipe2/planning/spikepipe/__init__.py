"""SpikePipe's schedule (Sanjeet, Sahoo and Parhi 2024, arXiv 2406.06879), as its abstract describes it.

- ``networks``: spiking networks as shapes, cycles of their tasks on a systolic array
- ``tasks``: forward, activation gradient and weight gradient per unit, time steps and mini-batch; what waits for what
- ``scheduler``: a list scheduler over processors, with messages; ``validate`` checks what it makes
- ``compare``: the table against standard pipelining
"""

from layerpipe2.planning.spikepipe.compare import compare
from layerpipe2.planning.spikepipe.networks import Setting, spiking

__all__ = ["Setting", "compare", "spiking"]
