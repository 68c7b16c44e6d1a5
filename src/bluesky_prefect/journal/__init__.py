"""Documents on disk: a file for each run, which a recorder writes and the courier reads."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
