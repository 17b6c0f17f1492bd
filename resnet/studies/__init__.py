"""Questions answered by training several nets that differ in one thing."""
