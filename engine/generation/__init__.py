"""Generate responses: random streams, the decode loop, engines."""
