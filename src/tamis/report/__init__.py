"""What a run looks like to a reader: one HTML file, or rows in a terminal."""
