"""Networks as flat lists of units, ready to be grouped into pipeline stages."""

from layerpipe2.lab.networks.registry import NETWORKS, SPIKING, NetworkInfo, build, outline

__all__ = ["NETWORKS", "SPIKING", "NetworkInfo", "build", "outline"]
