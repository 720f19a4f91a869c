"""lmlab: a laboratory for small language models.

Importing this package is cheap: torch and lightning are imported by the modules that need them.
"""

__version__ = "0.1.0"
