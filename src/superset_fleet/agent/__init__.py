"""A machine of a cloud comes and goes: boot and agent."""
