"""The tiny world, the default data: texts, conversations, comparisons and prompts, a tokenizer and a gold score."""
