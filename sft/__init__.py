"""Supervised finetuning of causal language models (report, 3.1), and plain-text pretraining."""
