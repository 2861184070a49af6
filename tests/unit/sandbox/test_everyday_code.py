"""What is denied must not break what programs usually do: files, locks, databases, processes, loops of events."""

import pytest

from sandbox import Sandbox

BLOCKS = {
    "copy": "import shutil; open('a', 'w').write('x' * 10**6); shutil.copy2('a', 'b'); len(open('b').read())",
    "zip": "import zipfile\nwith zipfile.ZipFile('z.zip', 'w') as z:\n    z.write('a')",
    "temporary": "import tempfile\nwith tempfile.TemporaryDirectory() as f:\n    open(f + '/x', 'w').write('x')",
    "lock": "import fcntl\nwith open('lock', 'w') as f:\n    fcntl.flock(f, 2)\n    fcntl.lockf(f, fcntl.LOCK_EX)",
    "database": (
        "import sqlite3\nc = sqlite3.connect('d.db')\nc.execute('create table t (x)')\n"
        "c.execute('insert into t values (3)')\nc.commit()\n"
        "assert sqlite3.connect('d.db').execute('select x from t').fetchone() == (3,)"
    ),
    "events": (
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return await asyncio.to_thread(len, 'abc')\n"
        "assert asyncio.run(f()) == 3"
    ),
    "threads": "from concurrent.futures import ThreadPoolExecutor as T; assert list(T(4).map(abs, [-1, 2])) == [1, 2]",
    "own limits and settings": (
        "import os, resource, signal\nresource.getrlimit(resource.RLIMIT_AS)\nos.getpriority(os.PRIO_PROCESS, 0)\n"
        "os.sched_getaffinity(0)\nos.nice(1)\nos.getpgid(0)\nsignal.raise_signal(signal.SIGCHLD)\nos.isatty(1)"
    ),
    "modes": "import os, stat; os.chmod('a', 0o600); os.utime('a', (1, 1)); os.stat('a').st_size",
    "map": "import mmap; m = mmap.mmap(-1, 2**22); m[:3] = b'abc'; m.close()",
}
WITH_PROCESSES = {
    "program": "import subprocess; assert subprocess.run(['echo', 'a'], capture_output=True).stdout == b'a\\n'",
    "group": (
        "import os, signal, subprocess\np = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "os.killpg(os.getpgid(p.pid), signal.SIGTERM)\nassert p.wait() == -15"
    ),
    "pool": (
        "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    assert pool.map(abs, [-1, 2]) == [1, 2]"
    ),
    "child of an event loop": (
        "import asyncio\nasync def f():\n    p = await asyncio.create_subprocess_exec('cat', stdin=-1, stdout=-1)\n"
        "    return (await p.communicate(b'abc'))[0]\nassert asyncio.run(f()) == b'abc'"
    ),
}


@pytest.mark.parametrize("level", ["namespaces", "landlock"])
def test_everyday_code(level):
    blocks = BLOCKS | (WITH_PROCESSES if level == "namespaces" else {})
    with Sandbox(level, preload=()) as box, box.session() as session:
        results = {name: session.run(code, 30) for name, code in blocks.items()}
    assert {name: result.traceback or result.error for name, result in results.items() if not result.ok} == {}
