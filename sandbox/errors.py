"""Errors of the sandbox."""


class SandboxError(Exception):
    """The sandbox cannot do what was asked. The message is one line with the cause and the way out."""


class NoIsolationError(SandboxError):
    """This machine cannot isolate code at the level that was asked for."""
