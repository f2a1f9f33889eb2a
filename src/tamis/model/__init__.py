"""The language model: loaded, trained, and asked for one loss per example."""
