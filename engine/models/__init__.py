"""Load, adapt and save models: checkpoints, adapters, 4 bits, tokenizer, vocabulary."""
