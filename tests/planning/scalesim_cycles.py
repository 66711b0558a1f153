"""Write scalesim_cycles.csv: cycles that the SCALE-Sim package counts for small matrix products.

The table is the outside check of `SystolicArray`; this script is its provenance. No test runs it: the package needs
numba, and the memory model of 3.0.0 fails under NumPy 2.4 (`int` of a one-element array), so that only its compute
model is asked here: the number of rows of its cycle-by-cycle demand matrices, stall-free.

    pip install scalesim==3.0.0 && python tests/planning/scalesim_cycles.py

One product is (m, k) x (k, n): m output pixels, n filters, k reduction. Dataflows: os, ws, is.
"""

import csv
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numpy as np

SHAPES = [(1, 1, 1), (4, 4, 4), (16, 8, 3), (64, 10, 27), (100, 17, 9), (37, 24, 50), (128, 32, 64), (5, 100, 7)]
ARRAYS = [(4, 4), (8, 16), (16, 8), (32, 32)]


def cycles(dataflow: str, array: tuple[int, int], shape: tuple[int, int, int]) -> int:
    """Cycles of one product on an array of (rows, columns)."""
    config = import_module("scalesim.scale_config").scale_config()
    config.array_rows, config.array_cols = array
    config.valid_conf_flag = True
    engine = getattr(import_module(f"scalesim.compute.systolic_compute_{dataflow}"), f"systolic_compute_{dataflow}")()
    m, n, k = shape
    engine.set_params(config, np.zeros((m, k)), np.zeros((m, n)), np.zeros((k, n)))
    demands, _, _ = engine.get_demand_matrices()
    return len(demands)


def main() -> None:
    """Run every dataflow, array and shape, write the table beside this script."""
    with Path(__file__).with_suffix(".csv").open("w", newline="") as file:
        file.write(f"# scalesim {version('scalesim')}, written by scalesim_cycles.py\n")
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["dataflow", "rows", "columns", "m", "n", "k", "cycles"])
        for dataflow in ("os", "ws", "is"):
            for array in ARRAYS:
                for shape in SHAPES:
                    table.writerow([dataflow, *array, *shape, cycles(dataflow, array, shape)])


if __name__ == "__main__":
    main()
