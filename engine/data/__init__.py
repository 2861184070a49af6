"""Data as all stages use it: sources, mixtures, rows, the length policy and its account, packing, order."""
