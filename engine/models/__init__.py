"""Models as all stages use them: loading, vocabulary, adapters, scalar heads, packing, log-probabilities, sampling."""
