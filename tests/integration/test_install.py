"""`pip install -e .`: the packages can be imported and run from any folder, and a wheel has all that they read."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.paths import ROOT
from tests.unit.test_layers import MAY_IMPORT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NEEDED = PROJECT["build-system"]["requires"][0].partition(">=")[2]


def clean(path: str, names: list[str]) -> list[str]:
    """Names that shutil.copytree leaves out."""
    return [name for name in names if name == "__pycache__"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what a build reads, so that it leaves nothing in the repository."""
    try:
        importlib.metadata.version("pip")
        found = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    if int(found.partition(".")[0]) < int(NEEDED):
        pytest.skip(f"setuptools {NEEDED} is not installed, and a build of its own would need a package index")
    folder = tmp_path_factory.mktemp("install") / "tree"
    for package in (*MAY_IMPORT, "recipes"):
        shutil.copytree(ROOT / package, folder / package, ignore=clean)
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return what it printed; its environment has none of our paths."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TINY")}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tree, tmp_path_factory):
    """The interpreter of an environment in which the tree is installed, beside the packages of this one."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    libraries = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip()
    Path(libraries, "these.pth").write_text(sysconfig.get_path("purelib"))
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--no-index", "--no-deps", "--no-build-isolation", "-e", tree, cwd=home)
    return python


def test_an_installed_tree_runs_in_any_folder(python, tree, tmp_path):
    found = run(
        python, "-c",
        "from chatml import encode; from sft.recipe import SFT; from engine.run import accelerate_config as c; "
        "import importlib.metadata as m, importlib.util as u; "
        "print(encode.__code__.co_filename, c.names()[0], m.version('plumbline'), u.find_spec('tests')); "
        "print(*m.requires('plumbline'))",
        cwd=tmp_path,
    )  # fmt: skip
    here, requirements = found.splitlines()
    assert here.split() == [str(tree / "chatml" / "encode.py"), "cpu", PROJECT["project"]["version"], "None"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [Requirement(line) for line in lines if not line.startswith("#")]
    assert [Requirement(text) for text in requirements.split()] == required
    for name in ("base/model", "world/sft.jsonl"):
        (tmp_path / "runs" / "tiny" / name).mkdir(parents=True)
    recipe = tree / "recipes" / "tiny" / "sft.yaml"
    assert run(python, "-m", "sft", recipe, "--check", cwd=tmp_path) == "recipe ok\n"


def test_a_wheel_has_every_package_and_what_they_read(tree, tmp_path):
    run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})", cwd=tree)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {
        path.relative_to(tree).as_posix()
        for package in (*MAY_IMPORT, "recipes")
        for path in (tree / package).rglob("*")
        if path.is_file()
    }
    assert packed == files
