"""Sides of a race that tests can look at; in a module of their own, so that their processes start fast."""

import os
import time


def ran(folder: str, name: str) -> dict[str, float]:
    """Writes down that it ran, and in which process."""
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
