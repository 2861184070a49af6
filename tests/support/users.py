"""Run Python as root or, through setpriv, as a user without privileges."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.confine import is_open_to_others
from tests.support.paths import ROOT

NOBODY = 65534


def command_as(who: str) -> list[str]:
    """Return the beginning of a command that runs Python. Skips the test where that cannot be.

    who: "root"; "root of an open Python", one that other users may run too; "user"
    """
    if who.startswith("root") and os.geteuid() != 0:
        pytest.skip("needs root")
    if who == "root" or os.geteuid() != 0:
        return [sys.executable]
    if not is_open_to_others([f"{ROOT}/sandbox"]):
        pytest.skip(f"{ROOT} is closed to other users")
    python = next(filter(is_usable, (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3")), None)
    if python is None:
        pytest.skip("no Python 3.11 or newer that other users may run")
    if who != "user":
        return [python]
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv (util-linux) to run as another user")
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", python]


def is_usable(python: str) -> bool:
    if not Path(python).exists() or not is_open_to_others([python]):
        return False
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    return subprocess.run([python, "-I", "-c", check], check=False).returncode == 0


def run_as(who: str, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run Python in the project's folder; `prefix` is a command that starts it. Returns what it printed."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | ({"HOME": "/nonexistent"} if who == "user" else {})
    command = [*prefix, *command_as(who), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
