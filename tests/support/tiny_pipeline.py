"""A whole pipeline of a few kilobytes with random weights: 8x8 images from a 4x4 latent, a BERT of width 16."""

from pathlib import Path

import torch

from ifuvit.diffusion.objective import DDPM, AnyObjective
from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.model.settings import IFUViTConfig
from ifuvit.model.uvit import IFUViT
from ifuvit.pipeline import write_pipeline

WORDS = "a one two three four sheep bus buses apple apples on grass left of right red".split()
TOKENS = 8

MODEL = IFUViTConfig(
    latent_size=4, embed_dim=16, depth=2, num_heads=2, text_width=16, text_tokens=TOKENS, n_text=1, n_image=1
)


def write_text_encoder(folder: Path, seed: int = 0) -> Path:
    """A BERT-like model and a tokenizer of one token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name.strip('[]').lower()}_token": name for name in special}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=TOKENS, **names).save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(
        BertConfig(vocab_size=len(vocabulary), max_position_embeddings=TOKENS, initializer_range=0.5, **sizes)
    ).save_pretrained(folder)
    return folder


def write_vae(folder: Path, seed: int = 0) -> Path:
    """An AutoencoderKL of factor 2."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(seed)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        norm_num_groups=2,
        mid_block_add_attention=False,
    ).save_pretrained(folder)
    return folder


def tiny_model(config: IFUViTConfig = MODEL) -> IFUViT:
    torch.manual_seed(0)
    model = IFUViT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # away from the nearly linear start, so that the prompt is seen
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model


def write_tiny_pipeline(directory: Path, objective: AnyObjective = DDPM()) -> Path:  # noqa: B008
    """The pipeline at `directory`/pipeline, its encoders beside it; as in a run directory."""
    from ifuvit.encoders.autoencoder import Autoencoder
    from ifuvit.encoders.text_encoder import TextEncoder

    text_encoder = TextEncoder.from_pretrained(write_text_encoder(directory / "text"), max_tokens=TOKENS)
    autoencoder = Autoencoder.from_pretrained(write_vae(directory / "vae"))
    write_pipeline(
        directory / "pipeline",
        tiny_model(),
        autoencoder={"reference": autoencoder.reference, "fingerprint": autoencoder.fingerprint, "more": 1},
        text_encoder={
            "reference": text_encoder.reference,
            "fingerprint": text_encoder.fingerprint,
            "max_tokens": TOKENS,
        },
        normalization=LatentNormalization(scale=(0.5,)),
        objective=objective,
    )
    return directory
