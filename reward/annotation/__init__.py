"""Make comparisons as in the report (3.2.1): select prompts by tags, generate responses, pair them by their scores."""
