"""Images with captions, from their source to encoded latents and text embeddings on disk."""
