"""Several ranks: devices, collectives, sharding."""
