"""Comparisons made the report's way (3.2.1): prompts chosen by tags, answers of several models, pairs from scores."""
