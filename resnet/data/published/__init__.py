"""Data sets that others published: where to fetch them, and readers of their own formats."""
