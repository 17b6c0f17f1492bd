"""Starts the commands from a clone, writes the pages, and measures the code.

The scripts find each other by name, also when one is started as a module: python -m scripts.train.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
