"""What pipelined training costs: bytes, operations, and the time they take on a stated device.

- ``work``: the three products of a layer's training step, and what one stage does and keeps
- ``measure``: run a network once on the meta device and count
- ``costs``: memory, communication, load balance and iteration bound of a partition
- ``devices``: FLOP/s and systolic-array time models with links
- ``profiling``, ``balance``: measured times of the units, and balanced contiguous stages by them
- ``machine``, ``predict``, ``choices``: measured memory and links, and the time of every way to train (``variants``)
- ``schedules``: pipeline schedules and their simulator; ``spikepipe``: list schedules of spiking networks' tasks
"""

from layerpipe2.planning.costs import Costs, network_costs, uniform_costs
from layerpipe2.planning.devices import FlopDevice, Link, SystolicArray
from layerpipe2.planning.work import StageWork, Work

__all__ = ["Costs", "FlopDevice", "Link", "StageWork", "SystolicArray", "Work", "network_costs", "uniform_costs"]
