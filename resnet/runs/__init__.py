"""A run on disk: its folder, checkpoints, records, curves, provenance and lock."""
