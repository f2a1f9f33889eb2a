"""What an example looks like: one feature row per example, or directly a similarity."""
