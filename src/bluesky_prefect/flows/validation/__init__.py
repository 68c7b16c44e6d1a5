"""The checks of a run's data."""
