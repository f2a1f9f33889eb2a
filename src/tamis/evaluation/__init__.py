"""What a model is worth on a target."""
