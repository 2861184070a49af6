"""What a run will hold in memory and how long it will take, told before any weight is loaded."""
