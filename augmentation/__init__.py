"""Transforms of batches of images: batch in, batch out."""
