"""Models in and out: loading, adapters, 4 bits, tokenizer, vocabulary."""
