"""Sides of a benchmark race for tests, in a module without heavy imports so that their processes start fast."""

import os
import time


def succeeding(folder: str, name: str) -> dict[str, float]:
    """Append this side's name and process id to `folder`/ran, and return a rate."""
    with open(f"{folder}/ran", "a") as file:
        file.write(f"{name} {os.getpid()}\n")
    print("something else")
    return {"rate": float(len(name))}


def failing() -> dict[str, float]:
    raise OSError("no such thing")


def out_of_memory(**_: object) -> dict[str, float]:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 0.")


def slow(**_: object) -> dict[str, float]:
    time.sleep(60)
    return {}
