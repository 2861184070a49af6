"""python -m tiny FOLDER [--seed N]: write the tiny world."""

import argparse
import os
import sys
from pathlib import Path

from tiny.world import FolderError, is_written, write_world

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tiny", description="Write the files of the tiny world.")
    parser.add_argument("folder", type=Path, help="output folder; an existing world in it is replaced")
    parser.add_argument("--seed", type=int, default=0, help="each seed gives a different world (default: 0)")
    arguments = parser.parse_args()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed prints that it looked for a GPU
    if is_written(arguments.folder, arguments.seed):
        print(f"{arguments.folder}: up to date; nothing to do")
        sys.exit()
    try:
        write_world(arguments.folder, arguments.seed)
    except FolderError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {arguments.folder} cannot be written ({error.strerror}); use another folder", file=sys.stderr)
        sys.exit(2)
    print(f"{arguments.folder}: written, seed {arguments.seed}")
