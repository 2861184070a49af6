"""Sides of a race that tests can look at; in a module of their own, so that their processes start fast."""

import os


def ran(folder: str, name: str) -> dict[str, float]:
    """Writes down that it ran, and in which process."""
    with open(f"{folder}/ran", "a") as file:
        file.write(f"{name} {os.getpid()}\n")
    print("something else")
    return {"rate": float(len(name))}


def failing() -> dict[str, float]:
    raise OSError("no such thing")
