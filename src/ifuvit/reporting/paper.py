"""The paper's tables as printed: Hu, Jia, Rostami 2024, arXiv 2403.16530."""

from dataclasses import dataclass

SOURCE = "arXiv 2403.16530"

CLIP_NOTE = (
    "The paper's CLIP scores are not on one scale: 0.575 to 0.588 are most plausibly 2.5 x max(cosine, 0) (Hessel et al. "
    "2021), while the 0.29 to 0.325 of the foundation models in Table 2 are raw cosines."
)
FLOPS_NOTE = (
    "The paper's GFLOPs leave the products of attention out; ours without them are 0.07 lower (norms and activations)."
)


@dataclass(frozen=True, kw_only=True)
class Table1Row:
    """One of the four settings; `n_image` counts image-only blocks a side."""

    conditioning: str
    fusion: str
    n_text: int
    n_image: int
    fid_30k: float
    clip_score: float
    parameters: str
    training_steps_per_second: float
    gflops: float


@dataclass(frozen=True, kw_only=True)
class Table2Row:
    """One model; None is what the paper leaves empty."""

    group: str
    model: str
    fusion: str
    path: str
    fid_30k: float | None
    clip_score: float | None
    gflops: float | None


def _setting(
    conditioning: str, fusion: str, fid: float, clip: float, parameters: str, speed: float, gflops: float
) -> Table1Row:
    n_text, n_image = (1, 4) if fusion == "intermediate" else (0, 0)
    return Table1Row(
        conditioning=conditioning,
        fusion=fusion,
        n_text=n_text,
        n_image=n_image,
        fid_30k=fid,
        clip_score=clip,
        parameters=parameters,
        training_steps_per_second=speed,
        gflops=gflops,
    )


TABLE_1 = (
    _setting("concat", "early", 5.98, 0.584, "45M", 1.81, 29.56),
    _setting("concat", "intermediate", 5.77, 0.588, "48M", 2.31, 25.84),
    _setting("cross", "early", 6.48, 0.575, "45M", 2.54, 23.82),
    _setting("cross", "intermediate", 5.68, 0.588, "48M", 2.74, 23.66),
)


def _model(
    group: str, model: str, fusion: str, path: str, fid: float | None, clip: float, gflops: float | None
) -> Table2Row:
    return Table2Row(group=group, model=model, fusion=fusion, path=path, fid_30k=fid, clip_score=clip, gflops=gflops)


_FOUNDATION, _DEDICATED = "zero-shot on MS-COCO", "trained on MS-COCO"

TABLE_2 = (
    _model(_FOUNDATION, "DALL-E 3", "early", "cross", None, 0.320, None),
    _model(_FOUNDATION, "Imagen", "early", "cross", 7.27, 0.29, None),
    _model(_FOUNDATION, "Stable Diffusion", "early", "cross", 8.59, 0.325, None),
    _model(_FOUNDATION, "SDXL", "early", "cross", None, 0.305, None),
    _model(_DEDICATED, "U-ViT-Small", "early", "concat", 5.98, 0.584, 29.56),
    _model(_DEDICATED, "IF-U-ViT (the paper's)", "intermediate", "cross", 5.68, 0.588, 23.66),
)
