"""Image data sets held whole in memory: found, verified, split and served as batches on the training device.

`load` finds a data set and checks that it is the published one, `split` makes train, validation and test parts,
`BatchLoader` turns a part into normalised batches. `layerpipe2.data.sources` documents where data is looked for.
"""

from layerpipe2.data.batches import BatchLoader
from layerpipe2.data.loading import load
from layerpipe2.data.specs import DATASETS, DatasetSpec
from layerpipe2.data.splits import split
from layerpipe2.data.types import ImageData, Splits, TensorSplit

__all__ = ["DATASETS", "BatchLoader", "DatasetSpec", "ImageData", "Splits", "TensorSplit", "load", "split"]
