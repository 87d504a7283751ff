"""CTranslate2 as a peer: a model of any decoder's layers that writes what it is told to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from yolor_edge.benchmarks.studies.ctranslate2_peer import CTranslate2Decoder, is_installed, write_model

from ...runtime.captions.random_decoder import random_decoder


@pytest.mark.skipif(not is_installed(), reason="CTranslate2 is not installed")
@pytest.mark.parametrize("encoder_layers", [1, 2])
def test_a_decoder_from_arrays_writes_as_many_words_as_asked_for(tmp_path: Path, encoder_layers: int) -> None:
    decoder = random_decoder(width=24, heads=3, memory=50, vocabulary=37, hidden=48)
    image = np.zeros(decoder.where.shape, np.float32)
    write_model(tmp_path / "model", decoder.parameters, 2, 3, image, encoder_layers)
    for compute_type in ("float32", "int8"):
        peer = CTranslate2Decoder(tmp_path / "model", compute_type, 50, 37, 6)
        assert len(peer.write(1)) == len(peer.write(3)) == 6
