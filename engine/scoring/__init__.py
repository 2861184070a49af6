"""Score answers: with reward models, a function, or a judge behind an endpoint."""
