"""Limits of a sandbox session."""

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What a session may use. Sizes are in bytes; the values are our choice."""

    seconds: float = 10.0
    """time of one block, unless `run` is given another"""
    cpu_seconds: int | None = None
    """CPU time of each process over the whole session; None: unlimited"""
    memory: int = 2048 * MIB
    """resident memory of all processes together, and address space of each beyond that of a new session"""
    file: int = 64 * MIB
    """size of one file"""
    disk: int = 256 * MIB
    """size of all files together (level namespaces)"""
    inodes: int = 5000
    """number of files and folders (level namespaces)"""
    processes: int = 64
    """number of processes and threads; level landlock allows threads only"""
    output: int = MIB
    """bytes that are kept of stdout, and of stderr, of one block"""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise ValueError(f"Limits.{name}={value}: must be greater than 0")
