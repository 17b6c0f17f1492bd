"""The net and nothing else: its config, its parts, which combinations are a net, and published nets."""
