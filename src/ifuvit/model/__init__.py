"""The backbone: a U-shaped vision transformer with text in some of its blocks."""
