from ._kafka_source import KafkaSource as KafkaSource
from ._refused_messages import RefusedMessages as RefusedMessages
from ._tiled_source import TiledSource as TiledSource
from ._zmq_source import ZMQSource as ZMQSource
