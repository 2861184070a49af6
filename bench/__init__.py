"""Speed and memory, beside what a user would pick instead: the same work done both ways, and the ratio."""
