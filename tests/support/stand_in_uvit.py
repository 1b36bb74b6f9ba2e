"""A stand-in for a checkout of U-ViT, with the same interface: this package's backbone in U-ViT's setting."""

from pathlib import Path

_BACKBONE = """
from .timm import NOTHING
from ifuvit.model.settings import IFUViTConfig
from ifuvit.model.uvit import IFUViT

print("attention mode is stand-in")
ATTENTION_MODE = "stand-in"


class UViT(IFUViT):
    def __init__(self, img_size, patch_size, in_chans, embed_dim, depth, num_heads, mlp_ratio, clip_dim, num_clip_token):
        super().__init__(
            IFUViTConfig(
                latent_size=img_size, patch_size=patch_size, latent_channels=in_chans, embed_dim=embed_dim, depth=depth,
                num_heads=num_heads, mlp_ratio=mlp_ratio, text_width=clip_dim, text_tokens=num_clip_token,
                conditioning="concat", n_text=0, n_image=0,
            )
        )

    def forward(self, x, timesteps, context):
        return super().forward(x, timesteps, context)
"""


def write_checkout(directory: Path, *, backbone: str = _BACKBONE, timm: str | None = "NOTHING = None") -> Path:
    """libs/uvit_t2i.py, and libs/timm.py that it imports from."""
    (directory / "libs").mkdir(parents=True)
    (directory / "libs" / "uvit_t2i.py").write_text(backbone)
    if timm is not None:
        (directory / "libs" / "timm.py").write_text(timm)
    return directory
