"""What gives an answer its score: reward models together, a function, or a judge behind an endpoint."""
