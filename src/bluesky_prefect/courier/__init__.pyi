from ._courier import JournalCourier as JournalCourier
from ._courier_lock import CourierRuns as CourierRuns
from ._courier_lock import RunningCourier as RunningCourier
from ._courier_lock import running_courier as running_courier
from ._forwarder import CLOSE_TIMEOUT_S as CLOSE_TIMEOUT_S
from ._forwarder import Forwarder as Forwarder
from ._process import run_courier as run_courier
from ._reminders import Reminders as Reminders
