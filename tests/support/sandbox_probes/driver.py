"""Run all probes at one level and print {probe: {"through": whether it got through, "found": what it returned}}.

    python -m tests.support.sandbox_probes.driver namespaces [PROBE ...]

A process of its own, so that it can run as another user.
"""

import json
import os
import sys
from pathlib import Path
from secrets import token_hex
from typing import Any

import tests.support.sandbox_probes.attributes
import tests.support.sandbox_probes.files
import tests.support.sandbox_probes.kernel
import tests.support.sandbox_probes.network
import tests.support.sandbox_probes.processes  # noqa: F401 - fill PROBES
from sandbox import Result, Sandbox, SandboxError, Session
from tests.support.sandbox_probes.suite import HELPERS, PRELUDE, PROBES, Probe
from tests.support.sandbox_world import World

SECONDS = 20.0


def main(level: Any, names: list[str]) -> None:
    world = World()
    try:
        with Sandbox(level, preload=()) as box, box.session() as session:
            print(json.dumps({name: attempt(PROBES[name], world, session) for name in names or PROBES}))
    finally:
        world.close()


def attempt(probe: Probe, world: World, session: Session) -> dict[str, Any]:
    """Run one probe, and judge it."""
    if session.is_over or probe.name == "inherited_descriptors":  # the attempts before leave some open
        session.reset()
    world.facts["mark"] = mark = f"mark-{token_hex(8)}"
    result = session.run(f"{PRELUDE}{HELPERS}\n{probe.code}\nprint({probe.name}({world.facts!r}))", SECONDS)
    through = is_through(probe, world, session, result)
    for path in marks(world, mark):
        path.unlink()
    world.renew()
    if through:  # the session may be another than before
        session.close()
    return {"through": bool(through), "found": result.error or result.stdout.strip()[:200]}


def is_through(probe: Probe, world: World, session: Session, result: Result) -> object:
    match probe.judge:
        case "token":
            return world.token in result.stdout
        case "true":
            return result.stdout.strip() == "True"
        case "changes":
            return world.changes()
        case "marks":
            return marks(world, world.facts["mark"])
        case "harm":
            return world.harm()
        case "reached":
            return world.reached()
        case "ended":
            return result.ended
        case "take":
            return has_taken(world, session)


def has_taken(world: World, session: Session) -> bool:
    """Return whether the supervisor gets the secret, or waits, when it takes what a probe has left."""
    try:
        files = session.take("artefact*", 10**6) | session.take("artefact*/*", 10**6)
    except SandboxError:
        return True
    return bool(files)


def marks(world: World, mark: str) -> list[Path]:
    """Return the files of the host that a probe has written."""
    places = ("/tmp", "/var/tmp", "/dev/shm", *(world.facts[name] for name in ("home", "cwd", "site")))
    return [path for place in places if (path := Path(place, mark)).exists()]


if __name__ == "__main__":
    os.environ.setdefault("HOME", os.path.expanduser("~"))
    main(sys.argv[1], sys.argv[2:])
