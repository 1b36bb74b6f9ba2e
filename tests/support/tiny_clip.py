"""What the tests of CLIP share: a tokenizer of letters, and the text model's sizes."""

import json
from pathlib import Path
from typing import Any


def write_tokenizer(folder: Path, *, max_tokens: int) -> dict[str, int]:
    """CLIP's byte-level BPE with an alphabet of letters: every letter a token, "sheep" and "bus" merged into one.

    Returns:
        The vocabulary.
    """
    letters = "abcdefghijklmnopqrstuvwxyz,"
    vocab = {token: number for number, token in enumerate([*letters, *(letter + "</w>" for letter in letters)])}
    merges = ["s h", "sh e", "e p</w>", "she ep</w>", "u s</w>", "b us</w>"]
    for merge in merges:
        vocab.setdefault(merge.replace(" ", ""), len(vocab))
    vocab["<|startoftext|>"] = len(vocab)
    vocab["<|endoftext|>"] = len(vocab)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": max_tokens, "bos_token": "<|startoftext|>"}
    config |= {f"{name}_token": "<|endoftext|>" for name in ("unk", "eos", "pad")}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return vocab


def text_config(vocab: dict[str, int], *, max_tokens: int) -> dict[str, Any]:
    """Of a text model for that tokenizer, 24 wide."""
    return {
        "vocab_size": len(vocab),
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": max_tokens,
        "bos_token_id": vocab["<|startoftext|>"],
        "eos_token_id": vocab["<|endoftext|>"],
        "pad_token_id": vocab["<|endoftext|>"],
    }
