"""Sources of runs other than a RunEngine of this process: Tiled, Kafka and 0MQ, each in front of `PrefectCallback`."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
