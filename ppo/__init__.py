"""Stage 3: PPO against one or more rewards (report, 3.2.2)."""
