"""What the verdicts of an experiment demand: its section ``report``, in its file and beside its tables."""

from typing import Annotated, Self

from pydantic import model_validator

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.objectives import judged
from layerpipe2.lab.runs.validation import Checked, real


class Report(Checked):
    """The section."""

    equivalence_margin_points: Annotated[float, *real(gt=0, le=100)]  # points of test accuracy that count as no loss
    equivalence_margin_nats: Annotated[float, *real(gt=0, le=100)] | None = None  # if given, the test loss is judged
    significance_level: Annotated[float, *real(gt=0, lt=0.5)]  # of a family of tests, after Holm's correction
    image_guard: bool = False  # whether a verdict must also hold for other test images
    least_share: Annotated[float, *real(gt=0, lt=1)] | None = None  # if given, what a strategy must win back

    @property
    def judges_losses(self) -> bool:
        """Whether verdicts and the choice of rates are about losses; otherwise about accuracies."""
        return judged(dict(self)) == "loss"

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.image_guard and self.judges_losses:
            raise UserError("image_guard needs a margin in points: the spread of losses over images isn't known")
        if self.least_share is not None and (self.image_guard or self.judges_losses):
            raise UserError("least_share is for accuracies of one test part; leave out image_guard and nats")
        return self
