"""The scripts, which find each other by name: started as a module, too, as in python -m scripts.train."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
