"""Responses of a model: random streams, the decode loop, engines."""
