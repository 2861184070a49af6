"""Show data as a stage sees it: conversations with the trained tokens marked, and statistics."""
