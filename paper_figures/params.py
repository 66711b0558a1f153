"""The file that says what the tests of the verdicts demand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from layerpipe2.errors import UserError


def read_params(path: Path) -> Mapping[str, Any]:
    """The parameters of a YAML file.

    Raises:
        UserError: if it can't be read or is no mapping.
    """
    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"'{path}' cannot be read ({' '.join(str(error).split())}); give a YAML file") from None
    if not isinstance(params, Mapping):
        raise UserError(f"'{path}' holds no parameters; give a YAML mapping, for example 'report: {{}}'")
    return params
