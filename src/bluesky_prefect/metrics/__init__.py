"""Tells Prometheus, and health checks, how recording and sending go."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
