"""Pure scores: features of images, the Frechet distance between them, the classes shown."""
