"""The names of the experiments, and their files."""

from pathlib import Path

from layerpipe2.errors import UserError, did_you_mean, shown

HERE = Path(__file__).parent


def experiments() -> list[str]:
    """Names of all experiments."""
    return sorted(path.stem for path in HERE.glob("*.yaml"))


def path_of(name: str) -> Path:
    """The file of an experiment's name, or of any place if it ends in ``.yaml``.

    Raises:
        UserError: if no experiment has this name.
    """
    if name.endswith(".yaml"):
        return Path(name)
    if name not in experiments():
        raise UserError(f"no experiment {shown(name)}; {did_you_mean(name, experiments())}")
    return HERE / f"{name}.yaml"
