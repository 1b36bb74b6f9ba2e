"""The frozen encoders: pixels to latents, captions to text embeddings."""
