"""Networks that others have trained, and the files of their weights: what scores are read by and what D may see by."""
