"""Commands beside those that run the pipeline, and what all commands share."""
