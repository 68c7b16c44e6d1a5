"""Parts that several flows share."""
