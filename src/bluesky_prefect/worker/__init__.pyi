from ._control_log import bound_control_log as bound_control_log
from ._outage_log import quiet_outages as quiet_outages
from ._stop_signal import cancelled_by_sigterm as cancelled_by_sigterm
from ._worker import WarmProcessWorker as WarmProcessWorker
