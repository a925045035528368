"""A small AWS on one Linux machine.

The API is moto's; the instances are real: one systemd-nspawn machine each, with systemd, sshd,
an address of its own and instance metadata. See `python -m localcloud --help`.
"""
