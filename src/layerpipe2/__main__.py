"""``python -m layerpipe2`` is the command line."""

import sys

from layerpipe2.cli import main

sys.exit(main())
