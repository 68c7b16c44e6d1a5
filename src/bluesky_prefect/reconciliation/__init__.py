"""Tiled's runs compared with what Prefect did with them, and what is missing started."""
