"""Weight spaces of networks without code, from the names, the order and the shapes of their tensors."""
