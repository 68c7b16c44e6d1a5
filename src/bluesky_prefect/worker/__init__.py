"""A Prefect worker that forks flow runs from a process that has imported what they need."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
