"""One module for each command: its help, its flags, and one call of the library."""
