"""Use and publish trained models: chat, write checkpoints as model folders, merge adapters, push to the hub."""
