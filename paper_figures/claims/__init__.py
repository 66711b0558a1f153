"""Verdicts, each computed from the records: on the claims of the abstract, of tuned experiments, of real pipelines."""

from __future__ import annotations

from collections.abc import Mapping

STATEMENTS: Mapping[str, str] = {
    "C1": "The delay that a layer's gradient needs follows from the network's structure alone: inner (late) layers "
    "few, outer (early) layers many.",
    "C2": "Pipelined at every layer, the delay of a layer depends only on the number of downstream stages.",
    "C3": "Pipelined in groups, all layers of a group share one delay.",
    "C4": "The delays can be derived formally, by delayed-gradient adaptation and retiming: there are places where "
    "delays may legally go.",
    "C5": "Pipelining implicitly needs historical weights, and storing them is a memory cost.",
    "C6": "A pipeline-aware moving average reconstructs the historical weights instead of storing them, without "
    "losing accuracy.",
    "C7": "Grouping layers is a controlled trade-off of communication against computation.",
    "C8": "It applies to convolutional and fully connected networks (and to spiking ones, which are not tested here).",
}
"""The claims of the abstract."""
