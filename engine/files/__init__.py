"""Atomic, durable file writes, and JSON Lines."""
