"""What `ifuvit evaluate` does: protocols, reference images, the images to evaluate, and the evaluators."""
