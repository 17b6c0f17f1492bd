"""This process and its machine: signals, processes, devices, cache, logs and progress."""
