"""Training of the embedded stand-ins: the autoencoder, the two-tower alignment model, the object counter."""
