"""The pipeline on real processes: one rank per process, on one machine or several, over ``torch.distributed``."""
