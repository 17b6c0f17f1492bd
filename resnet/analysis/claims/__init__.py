"""Each sentence of the idea as a hypothesis: what is measured, and the rule that makes a verdict of it."""
