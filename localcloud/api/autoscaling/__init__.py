"""Auto Scaling: groups whose members come, wait for hooks, are replaced, and go."""
