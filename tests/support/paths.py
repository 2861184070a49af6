"""Paths of the project and of the published data sets."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("PLUMBLINE_DATA", ROOT.parent / "shared" / "data"))
"""Folder of published data sets; tests that need them skip without it (PLUMBLINE_DATA names another folder)."""
