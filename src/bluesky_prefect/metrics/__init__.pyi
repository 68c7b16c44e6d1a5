from ._server import serve_metrics as serve_metrics
from ._signals import Contact as Contact
from ._signals import Reachability as Reachability
from ._signals import Signals as Signals
