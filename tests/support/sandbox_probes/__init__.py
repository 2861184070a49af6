"""Attempts to get out of a sandbox, each a function that runs inside. See suite.py for how they are judged."""
