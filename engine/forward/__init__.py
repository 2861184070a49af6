"""Forward passes of packed rows: attention, log-probabilities, responses, pairs, the scalar head."""
