"""The embedded default: a small world, its texts, conversations and comparisons, its tokenizer and gold score."""
