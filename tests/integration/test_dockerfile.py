"""The Dockerfile's steps, run as a script in a folder, with stand-ins for apt-get and Python."""

import json
import os
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# Writes down how it was called; `python3 -m venv FOLDER` leaves itself as the Python of that folder.
STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
"""


def steps() -> list[tuple[str, str]]:
    """(instruction, arguments) in order."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    instructions = [line.partition(" ") for line in lines if line.strip() and not line.startswith("#")]
    return [(name, arguments.strip()) for name, _, arguments in instructions]


def left_out() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert not any(character in line for line in lines for character in "!?[")  # patterns that `copied` does not read
    return lines


def copied(sources: list[str], folder: Path) -> None:
    def ignore(path: str, names: list[str]) -> list[str]:
        """A pattern is about the root alone, unless it begins with **/."""
        patterns = [line for line in left_out() if line.startswith("**/") or Path(path) == ROOT]
        return [name for name in names if any(fnmatch(name, pattern.removeprefix("**/")) for pattern in patterns)]

    for source in sources:
        assert (ROOT / source).exists(), source
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder, symlinks=True, ignore=ignore, dirs_exist_ok=True)
        else:
            shutil.copy2(ROOT / source, folder)


@pytest.fixture
def container(tmp_path):
    """A function that runs a command in the folder that stands for the image's; calls are in calls.txt."""
    programs, folder = tmp_path / "programs", tmp_path / "image"
    programs.mkdir()
    folder.mkdir()
    for name in ("apt-get", "python3"):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    (programs / "rm").symlink_to(shutil.which("true"))  # of the machine's own package lists
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls.txt"), "LC_ALL": "C"}

    def run(*command: str) -> list[str]:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        calls = tmp_path / "calls.txt"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return lines

    return folder, run


def test_the_steps_set_it_up_once_and_run_the_two_commands(container):
    folder, run = container
    calls, command = [], None
    for name, arguments in steps():
        match name:
            case "RUN":
                calls += run("/bin/sh", "-c", arguments)
            case "COPY":
                *sources, target = arguments.split()
                assert target in (".", "./")
                copied(sources, folder)
            case "CMD":
                command = json.loads(arguments)
            case _:
                assert name in ("FROM", "WORKDIR")
    assert calls == [
        "apt-get update",
        "apt-get install --yes --no-install-recommends make",
        "python3 -c import sys; sys.exit(sys.version_info < (3, 11))",
        "python3 -c import venv, ensurepip",
        "python3 -m venv .venv",
        "python -m pip install --disable-pip-version-check -c constraints.txt -r requirements.txt",
    ]
    # What is copied later does not set it up again.
    assert command == ["make", "tiny"]
    assert [line.split()[2] for line in run(*command)] == [
        "tiny", "sft", "sft", "reward", "reward", "reward", "ppo", "eval", "eval.report"
    ]  # fmt: skip
    assert run("make", "test") == ["python -m pytest --numprocesses logical --maxprocesses 4"]
    there = {path.name for path in folder.iterdir()}
    assert not there & {".git", "runs"}
    assert {"docs", "tests", "README.md", ".ci"} <= there
    assert (folder / "engine" / "dist" / "ranks.py").exists()  # not the dist of a build


def test_its_python_is_new_enough():
    (image,) = [arguments for name, arguments in steps() if name == "FROM"]
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    version = image.removeprefix("python:").partition("-")[0]
    assert tuple(map(int, version.split("."))) >= tuple(map(int, needed.removeprefix(">=").split(".")))


def test_what_git_leaves_out_the_image_leaves_out():
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split()}
    assert ignored - {"*.pyc"} <= {line.removeprefix("**/") for line in left_out()}
