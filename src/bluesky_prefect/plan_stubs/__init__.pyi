from ._flow_result import FlowResult as FlowResult
from ._wait_for_flow import wait_for_flow as wait_for_flow
