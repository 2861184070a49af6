"""Reward models: preference-model pretraining, then finetuning (report, 3.2.1)."""
