"""The fork server: a process that flow runs are forked from."""
