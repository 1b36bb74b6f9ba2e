"""How well an image fits its caption."""
