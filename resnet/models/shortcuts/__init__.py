"""Shortcuts: how a block's input x and its residual branch F(x) are joined. `table.py` has all."""
