"""The door to Tiled: runs and their data, results, and runs that Tiled has not taken yet."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
