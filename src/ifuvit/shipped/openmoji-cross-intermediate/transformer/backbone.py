"""For diffusers, as pipeline.py: `pip install ifuvit` has the code."""

from ifuvit import IFUViT  # noqa: F401
