"""python -m sandbox: try every level on this machine, say which one is used, and why not a better one."""

import argparse
import sys

from sandbox.box import Sandbox
from sandbox.errors import SandboxError
from sandbox.trial import ORDER

PROGRAM = "import os; os.getpid()"


def main() -> int:
    """Print one line per level. Return 1 if there is none."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    parser.parse_args()
    used = None
    for level in ORDER:
        try:
            with Sandbox(level, preload=()) as box, box.session() as session:
                result = session.run(PROGRAM)
                print(f"{level:<12} works: code ran as process {result.value} in {result.seconds:.3f} s")
                used = used or level
        except SandboxError as error:
            print(f"{level:<12} does not work: {error}")
    if used is None:
        print("error: no isolation on this machine", file=sys.stderr)
        return 1
    print(f"isolation='auto' is {used}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
