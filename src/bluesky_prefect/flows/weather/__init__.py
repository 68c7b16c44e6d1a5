"""The weather on the day of a run."""
