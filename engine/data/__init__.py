"""Data as all stages use it: sources, records to rows, the length policy and its report, packing, mixing, order."""
