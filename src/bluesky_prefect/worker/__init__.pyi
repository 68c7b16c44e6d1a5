from ._control_log import bound_control_log as bound_control_log
from ._stop_signal import cancelled_by_sigterm as cancelled_by_sigterm
from ._worker import WarmProcessWorker as WarmProcessWorker
