"""The base of every room: runs, workflows, submissions, documents, settings, errors."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
