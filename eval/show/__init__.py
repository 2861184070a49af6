"""Data as a person should see it before training on it: conversations with what is learnt marked, and their figures."""
