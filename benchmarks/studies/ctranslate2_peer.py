"""CTranslate2 as a peer of the native caption decoder: the same layers as a translation model, built from arrays.

CTranslate2 has no decoder over the vectors of an image, so an image is a sentence of as many tokens here, and an
encoder hands on their vectors. It must have a layer: one with nothing to add, whose time is measured as that of a model
with two less that of one with one, and taken off. Its output is one layer from the width to the vocabulary: the same
as that of our decoders with one output layer; of those with three, the last from twice the width, it has the last one
cut to the width, so less to do than they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
BOS, EOS, UNK = "<s>", "</s>", "<unk>"


class CTranslate2Decoder:
    """Writes sentences of a fixed length with CTranslate2, on one thread.

    Args:
        folder: Of the model, as `write_model` leaves it.
        compute_type: "float32" or "int8".
        memory: Vectors an image gives.
        words: Of the vocabulary.
        tokens: Of every sentence.
    """

    def __init__(self, folder: Path, compute_type: str, memory: int, words: int, tokens: int):
        ctranslate2 = import_module("ctranslate2")
        self._translator = ctranslate2.Translator(
            str(folder), device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=1
        )
        self._image = [f"w{i % (words - 3)}" for i in range(memory)]
        self._tokens = tokens

    def write(self, beam_size: int) -> list[str]:
        """One sentence; every image costs the same, so there is one."""
        found = self._translator.translate_batch(
            [self._image],
            beam_size=beam_size,
            max_decoding_length=self._tokens,
            min_decoding_length=self._tokens,
            max_input_length=0,
        )
        return found[0].hypotheses[0]


def is_installed() -> bool:
    """Whether CTranslate2 can be imported."""
    return find_spec("ctranslate2") is not None


def write_model(
    folder: Path, parameters: Mapping[str, Floats], layers: int, heads: int, image: Floats, encoder_layers: int = 1
) -> None:
    """A CTranslate2 model with a caption decoder's layers.

    Args:
        folder: Made if missing.
        parameters: Of the network's `caption_decoder`, by their names there.
        layers: Of the decoder.
        heads: Of the attention.
        image: (memory, width), what the image's tokens stand for.
        encoder_layers: That add nothing.
    """
    spec: Any = import_module("ctranslate2.specs.transformer_spec").TransformerSpec.from_config(
        (encoder_layers, layers), heads, pre_norm=False, no_final_norm=True
    )
    vocabulary, width = parameters["words.weight"].shape

    def linear(target: Any, source: Mapping[str, Floats], *names: str) -> None:
        target.weight = np.concatenate([source[f"{name}.weight"] for name in names])
        target.bias = np.concatenate([source[f"{name}.bias"] for name in names])

    def norm(target: Any, source: Mapping[str, Floats], name: str) -> None:
        target.gamma, target.beta = source[f"{name}.weight"], source[f"{name}.bias"]

    sources = np.zeros((vocabulary, width), np.float32)
    sources[3:] = np.resize(image, (vocabulary - 3, width))  # after the three special tokens
    spec.encoder.embeddings[0].weight = sources
    spec.encoder.position_encodings.encodings = np.zeros((len(image) + 2, width), np.float32)
    nothing = {"norm.weight": np.ones(width, np.float32), "norm.bias": np.zeros(width, np.float32)}
    for name, (outputs, inputs) in {"in": (3 * width, width), "out": (width, width), "up": (16, width)}.items():
        nothing |= {
            f"{name}.weight": np.zeros((outputs, inputs), np.float32),
            f"{name}.bias": np.zeros(outputs, np.float32),
        }
    nothing |= {"down.weight": np.zeros((width, 16), np.float32), "down.bias": np.zeros(width, np.float32)}
    for layer in spec.encoder.layer:
        linear(layer.self_attention.linear[0], nothing, "in")
        linear(layer.self_attention.linear[1], nothing, "out")
        linear(layer.ffn.linear_0, nothing, "up")
        linear(layer.ffn.linear_1, nothing, "down")
        for target in (layer.self_attention.layer_norm, layer.ffn.layer_norm):
            norm(target, nothing, "norm")
    decoder = spec.decoder
    decoder.embeddings.weight = parameters["words.weight"]
    decoder.position_encodings.encodings = np.pad(parameters["positions.weight"], ((0, 2), (0, 0)))
    last = "output.4" if "output.4.weight" in parameters else "output.0"
    decoder.projection.weight = np.ascontiguousarray(parameters[f"{last}.weight"][:, :width])
    decoder.projection.bias = parameters[f"{last}.bias"]
    for part in (spec.encoder, decoder):
        part.scale_embeddings = False
    for i, layer in enumerate(decoder.layer):
        own, cross = f"layers.{i}.self_attention", f"layers.{i}.cross_attention"
        linear(layer.self_attention.linear[0], parameters, f"{own}.query", f"{own}.key", f"{own}.value")
        linear(layer.self_attention.linear[1], parameters, f"{own}.output")
        norm(layer.self_attention.layer_norm, parameters, f"layers.{i}.norms.0")
        linear(layer.attention.linear[0], parameters, f"{cross}.query")
        linear(layer.attention.linear[1], parameters, f"{cross}.key", f"{cross}.value")
        linear(layer.attention.linear[2], parameters, f"{cross}.output")
        norm(layer.attention.layer_norm, parameters, f"layers.{i}.norms.1")
        linear(layer.ffn.linear_0, parameters, f"layers.{i}.feed_forward.0")
        linear(layer.ffn.linear_1, parameters, f"layers.{i}.feed_forward.3")
        norm(layer.ffn.layer_norm, parameters, f"layers.{i}.norms.2")
    words = [UNK, BOS, EOS, *(f"w{i}" for i in range(vocabulary - 3))]
    spec.register_source_vocabulary(words)
    spec.register_target_vocabulary(words)
    spec.validate()
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))
