"""Functions with several implementations: ours in C++, XLA's; the choice between them is made here."""
