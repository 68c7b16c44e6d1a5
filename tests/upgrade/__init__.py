"""Two versions on one state directory: what one writes, the other reads.

`python -m tests.upgrade COMMIT` installs the package of that commit beside this one, and tries both directions.
"""
