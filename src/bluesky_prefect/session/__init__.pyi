from ._courier import wait_until_delivered as wait_until_delivered
from ._flow_functions import export as export
from ._flow_functions import fun_fact as fun_fact
from ._flow_functions import my_workflow as my_workflow
from ._ipython import open_ipython as open_ipython
from ._session import Session as Session
from ._session import start_session as start_session
