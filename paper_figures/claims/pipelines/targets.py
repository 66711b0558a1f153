"""What the pipelines of this project aim at."""

OVER_PLAIN = 1.8
"""Speed of two processes of one thread over one, on a network that halves evenly."""

OVER_TORCH = 1.25
"""Speed over torch's 1F1B and GPipe at 2 and at 4 micro-batches."""

RIVALS = ("gpipe/2", "gpipe/4", "1f1b/2", "1f1b/4")
"""The variants of torch's pipelines that it is about."""

IN_WORDS = "1F1B and GPipe, at 2 and at 4 micro-batches"
