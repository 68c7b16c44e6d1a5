"""Takes what waits on this machine to where it belongs: journals to Tiled, submissions to Prefect."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
