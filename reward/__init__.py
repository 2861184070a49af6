"""Stage 2: reward models, by preference-model pretraining and then finetuning (report, 3.2.1)."""
