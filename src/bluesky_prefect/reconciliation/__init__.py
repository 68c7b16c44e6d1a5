"""Compares the runs in Tiled with their flow runs in Prefect, and starts those that are missing."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
