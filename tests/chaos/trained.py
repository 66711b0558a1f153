"""Programs that tests/programs draws: each trains as the clock-driven pipeline says, or is refused."""

import os

from tests.chaos.attack import Act, Failed, Scene
from tests.programs.trial import tried

ONE, TWO = 40, 10
"""Programs of a case, in one process and in two."""


def trained(scene: Scene) -> Act:
    """ONE + TWO programs of the scene's seed."""
    start = scene.random.getrandbits(32)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(scene.out)

    def act() -> str:
        for processes, number in ((1, ONE), (2, TWO)):
            try:
                tried(processes, number, start)
            except AssertionError as error:
                raise Failed("different", "\n".join([str(error), *getattr(error, "__notes__", [])])) from error
        return "equal"

    return act
