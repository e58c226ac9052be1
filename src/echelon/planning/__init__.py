"""Search: costs, optimizers, and the recursion that plans top-down."""
