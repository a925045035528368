"""The Linux below: machines, their images and their network. Imports nothing of the API."""
