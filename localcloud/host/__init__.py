"""The Linux below: machines, their images and their network. Knows nothing of AWS."""
