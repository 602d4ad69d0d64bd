"""The tests, with compiled modules kept in `__pycache__`.

Every process of the tests and every program that they start would otherwise compile this package and the tests again.
"""

import os
import sys

sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
