"""Studies: grids of methods, budgets, models, targets and seeds; what they measured, and what follows from it."""
