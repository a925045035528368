"""What runs on the control machine alone; machines of the fleet never import it."""
