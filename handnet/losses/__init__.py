"""Pure loss functions, one module per group of the paper's equations; see docs/method.md."""
