"""Distributed runs: devices, ranks, collectives, sharding."""
