"""Episodes: drawn from datasets, augmented, and made tensors."""
