"""PPO against a reward model (report, 3.2.2)."""
