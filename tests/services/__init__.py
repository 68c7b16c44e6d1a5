"""Servers that stand in for services on the internet, and real ones started as processes."""
