"""Sets how many workers there are, by what waits and runs."""
