"""What "fast" means, measured: each benchmark runs tamis and what it is compared with side by side, in one process."""
