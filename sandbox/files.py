"""Files of a session, seen from inside: written before the first block, and sent out afterwards."""

import base64
import os
import stat
from pathlib import Path

from sandbox.protocol import Message


def write(folder: str, files: dict[str, str]) -> Message:
    """Write {name: base64} below a folder. Raises OSError."""
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content))
    return {"done": True}


def read(folder: str, pattern: str, most: int) -> Message:
    """Return the regular files below a folder that match a pattern, of `most` bytes together; no links are followed.

    Raises OSError if one cannot be read, ValueError and others for patterns that pathlib refuses.
    """
    files: dict[str, str] = {}
    size = 0
    for path in sorted(Path(folder).glob(pattern)):
        name = path.relative_to(folder)
        if not stat.S_ISREG(path.lstat().st_mode) or any(Path(folder, above).is_symlink() for above in name.parents):
            continue
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            content = file.read(most - size + 1)
        size += len(content)
        if size > most:
            return {"too_large": True}
        files[str(name)] = base64.b64encode(content).decode()
    return {"files": files}
