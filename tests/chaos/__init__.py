"""Fault injection: real processes killed and starved while simulated scans run at full speed, and a count at the end.

`python -m tests.chaos` runs a campaign; `tests/system/test_chaos.py` a small one of the same code.
"""
