"""Where the project and the real data stand."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("PLUMBLINE_DATA", ROOT.parent / "shared" / "data"))
"""Published data sets, which tests read where they are there (PLUMBLINE_DATA names another folder)."""
