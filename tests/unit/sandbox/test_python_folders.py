"""Modules that were not preloaded can be imported wherever Python lies, and nothing beside them is in sight."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.users import NOBODY, command_as

USE = """
import sys
sys.path.insert(0, sys.argv[1])
from sandbox import Sandbox
with Sandbox(sys.argv[2], preload=()) as box:
    for code in sys.argv[3:]:
        with box.session() as session:
            result = session.run(code)
            print(result.value or result.error)
"""
IMPORT = "import json.tool, planted_module; planted_module.content"


@pytest.fixture(params=["namespaces", "landlock"])
def level(request):
    return request.param


@pytest.fixture(params=["root", "user"])
def who(request):
    return request.param


@pytest.fixture
def folder():
    """Return a folder below /tmp that other users may read."""
    with tempfile.TemporaryDirectory(prefix="python-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def use(who, python, level, *codes, home="/nonexistent"):
    """Run blocks in a session of a Python at a path; return what each returned."""
    command = [*command_as(who)[:-1], str(python), "-B", "-c", USE, str(ROOT), level, *codes]
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


def make_environment(who, folder):
    """Create a virtual environment with a module in it."""
    subprocess.run([command_as(who)[-1], "-m", "venv", "--without-pip", folder], check=True)
    plant(next(folder.glob("lib/python*/site-packages")))
    return folder


def plant(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "planted_module.py").write_text("content = 'planted'\n")


def test_environment_behind_links(who, level, folder):
    make_environment(who, folder / "real" / "environment")
    (folder / "link").symlink_to(folder / "real")
    (folder / "link2").symlink_to("link/environment")
    assert use(who, folder / "link2/bin/python", level, IMPORT) == ["'planted'"]


def test_environment_that_is_a_project(who, level, folder):
    """Its other files are not in sight."""
    make_environment(who, folder)
    (folder / "keys").write_text("secret")
    read = f"open('{folder}/keys').read()"
    imported, found = use(who, folder / "bin/python", level, IMPORT, read)
    assert imported == "'planted'"
    assert found.startswith(("FileNotFoundError", "PermissionError"))


def test_environment_in_a_closed_folder(level, folder):
    """As below /root: root may enter, and so may its sessions, though they have another uid where that is possible."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    make_environment("root", folder / "closed" / "environment")
    (folder / "closed").chmod(0o700)
    imported, uid = use("root", folder / "closed/environment/bin/python", level, IMPORT, "import os; os.getuid()")
    assert imported == "'planted'"
    assert int(uid) == 0 if level == "landlock" else int(uid) > 2_000_000_000


def test_packages_of_the_user(who, level, folder):
    python = "/usr/bin/python3"
    if not Path(python).exists() or subprocess.run([python, "-c", "import tomllib"], check=False).returncode:
        pytest.skip("needs /usr/bin/python3, 3.11 or newer")
    name = subprocess.run([python, "-c", "import sys; print(*sys.version_info[:2], sep='.')"], stdout=-1, check=True)
    plant(folder / f".local/lib/python{name.stdout.decode().strip()}/site-packages")
    (folder / "keys").write_text("secret")
    read = f"open('{folder}/keys').read()"
    imported, found = use(who, python, level, IMPORT, read, home=folder)
    assert imported == "'planted'"
    assert found.startswith(("FileNotFoundError", "PermissionError"))


def test_this_python(level):
    codes = (
        "import json.tool, xml.dom.minidom, sqlite3; 1",
        "import sympy; str(sympy.factor(sympy.Symbol('x')**2 - 1))",
    )
    assert use("root" if os.geteuid() == 0 else "user", sys.executable, level, *codes) == ["1", "'(x - 1)*(x + 1)'"]


def test_mount_points_may_be_moved_by_the_code_but_not_outside(who, folder):
    """An environment below /tmp is mounted in a folder that the code may write to."""
    make_environment(who, folder / "environment")
    if who == "user" and os.geteuid() == 0:
        shutil.chown(folder / "environment", NOBODY)
    move = f"import os\nos.rename('{folder}', '/tmp/moved')\nos.path.exists('/tmp/moved/environment/lib')"
    write = f"open('{folder}/environment/lib/new', 'w')"
    remove = f"import os; os.rmdir('{folder}/environment/lib')"
    found = use(who, folder / "environment/bin/python", "namespaces", move, write, remove, IMPORT)
    assert found[0] == "True"
    assert found[1].startswith(("OSError: [Errno 30]", "PermissionError"))
    assert found[2].startswith(("OSError: [Errno 16]", "PermissionError"))
    assert found[3] == "'planted'"
    assert (folder / "environment/lib").exists()
