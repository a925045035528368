"""AWS, as machines and the inventory ask it."""
