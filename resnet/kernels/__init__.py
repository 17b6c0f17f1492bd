"""Functions that have several implementations, ours in C++ and XLA's, and the choice between them."""
