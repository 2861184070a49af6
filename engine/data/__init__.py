"""Data for all stages: sources, encoding records as rows, length policy, report, packing, mixing, order."""
