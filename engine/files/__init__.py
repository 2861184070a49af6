"""Files that are whole or absent: durable writes, JSON Lines."""
