"""For diffusers.DiffusionPipeline.from_pretrained(DIRECTORY, trust_remote_code=True): `pip install ifuvit` has the code."""

from ifuvit.export.diffusers_pipeline import IFUViTPipeline  # noqa: F401
