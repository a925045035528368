"""What every service of the fleet is made of."""
