"""The logic of the IPython profile; its startup files only name what is here."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
