"""Examples in, subsets out. Nothing here imports torch or transformers; a tokenizer is passed in."""
