"""Evaluation: measures of any number of models side by side, and a report on the results."""
