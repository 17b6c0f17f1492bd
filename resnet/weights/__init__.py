"""Weights under the names of others: files, name maps, and state dicts to and from our variables."""
