"""Training many nets of one architecture as one batched computation."""
