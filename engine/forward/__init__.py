"""Forward passes over packed rows: attention, log-probabilities, responses, pairs, the scalar head."""
