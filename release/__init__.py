"""What others get of a finished model: merged adapters, a repository of the hub, a chat."""
