"""The wheel as users get it: installed by each extra into an empty environment, where the smallest example runs.

`python -m tests.wheel` builds it, and prints a table of what each extra brings.
"""
