"""The state of a run on disk: written in the background, sealed, checked and read back."""
