"""The delayed training step in one process: module, simulation, exchange of saved weights, audit, CUDA graph."""
