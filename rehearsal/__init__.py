"""The command ./fleet on the control machine: its environment, `up` and `down`, the proof."""
