"""A fleet that is deployed, for those who test or measure it."""
