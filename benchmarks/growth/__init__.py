"""How the cost of each thing grows with how much there is: one table for each question."""
