"""Benchmarks: the speed and memory of plumbline compared with the alternative that a user would choose, mostly TRL."""
