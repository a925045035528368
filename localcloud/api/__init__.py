"""What AWS is here: moto, with what it lacks."""
