"""How long a pipelined epoch takes, from the times of its parts."""

from collections.abc import Sequence


def by_maximum(preparation: Sequence[float], training: Sequence[float], threads: int) -> float:
    """The larger of the two sums instead of their sum, and of the other what nothing hides.

    That is preparing the first mini-batch, or training the last one.
    """
    return max(preparation[0] + sum(training), sum(preparation) / threads + training[-1])


def by_queue(preparation: Sequence[float], training: Sequence[float], threads: int, ahead: int) -> float:
    """The loader's rule, mini-batch by mini-batch.

    Number b is begun by the thread that is free first, but not before number b - ``ahead`` is taken; it is taken when
    it is ready and the one before it has been trained.
    """
    free = [0.0] * threads
    taken: list[float] = []
    end = 0.0
    for number, (prepare, train) in enumerate(zip(preparation, training, strict=True)):
        thread = free.index(min(free))
        start = max(free[thread], taken[number - ahead] if number >= ahead else 0.0)
        free[thread] = start + prepare
        taken.append(max(free[thread], end))
        end = taken[-1] + train
    return end
