"""Remove a folder that untrusted code has filled."""

import os
from contextlib import suppress
from secrets import token_hex


def remove(folder: str) -> None:
    """Remove a folder with everything in it. Its processes must be gone. What cannot be removed is left.

    Any depth of folders, longer than the longest path, is possible: each is moved up before it is read, so that neither
    recursion nor long names are needed. Links are not followed.
    """
    prefix = f"{folder}/{token_hex(8)}-"
    pending, read = [folder], []
    while pending:
        read.append(pending.pop())
        with suppress(OSError):
            for entry in list(os.scandir(read[-1])):
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        os.chmod(entry.path, 0o700)
                        moved = f"{prefix}{len(read) + len(pending)}"
                        os.rename(entry.path, moved)
                        pending.append(moved)
                    else:
                        os.unlink(entry.path)
    for path in reversed(read):
        with suppress(OSError):
            os.rmdir(path)
