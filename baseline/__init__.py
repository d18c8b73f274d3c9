"""Lets ``python3 -m baseline.test`` find the modules that ``python3 baseline/test.py`` does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
