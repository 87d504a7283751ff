"""Which caption decoder is fastest beside a GPU: the native one on the CPU, or the graphs as engines on the GPU."""

from __future__ import annotations

import statistics

from ...runtime.backends.registry import backend_entry
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.device_choices import CaptionChoice, chosen_caption_decoder, write_choice
from ...runtime.captions.captioning import CaptionOptions
from ...runtime.environment.cuda_device import cuda_device
from ...runtime.errors import BackendError, BundleError, YolorEdgeError
from ...runtime.model import load
from ...runtime.progress import Say
from ...runtime.verification.golden import GOLDEN_FOLDER, read_golden

# Both write the same words, up to the precision of the graphs; the decoder with int8 weights may not.
CANDIDATES = ("native", "graph")
WARMUP = 3


def is_choice_open(bundle: Bundle, backend: str, precision: str) -> bool:
    """Whether captions may be written in two ways beside a backend, and which is faster here was never measured.

    Args:
        bundle: Opened.
        backend: One that runs engines.
        precision: Of the graphs.

    Raises:
        UsageError: If the bundle lacks the precision.
    """
    backend_entry(backend)
    return _has_choice(bundle) and chosen_caption_decoder(bundle, backend, precision) is None


def choose_after_build(
    bundle: Bundle,
    backend: str,
    precision: str,
    beam_size: int | None,
    say: Say,
    has_new_engines: bool = True,
) -> None:
    """Measure which decoder is fastest, where the engines for that have just been built or found; never fails.

    Args:
        bundle: With the engines.
        backend: One that runs them.
        precision: Of the graphs.
        beam_size: Of the search; None for the model's own.
        say: Called with lines of progress, and with the outcome.
        has_new_engines: Whether what was measured before, if anything, is out of date.
    """
    try:
        if cuda_device() is None or not (has_new_engines or is_choice_open(bundle, backend, precision)):
            return
        choice = choose_caption_decoder(bundle, backend, precision, beam_size=beam_size, progress=say)
    except (YolorEdgeError, OSError) as error:  # the engines are there all the same
        say(f"captions: which decoder is fastest here was not measured ({error})")
    else:
        if choice is not None:
            say(f"captions: {choice.decoder} is the fastest on {choice.device}, and used there from now on")


def choose_caption_decoder(
    bundle: Bundle,
    backend: str,
    precision: str = "fp16",
    runs: int = 20,
    beam_size: int | None = None,
    progress: Say | None = None,
) -> CaptionChoice | None:
    """Time captions of the reference images with every decoder in turn, and keep the fastest in the bundle's cache.

    Args:
        bundle: With engines of all its parts for this device.
        backend: One that runs on the GPU.
        precision: Of the graphs.
        runs: Captions that count, for each decoder.
        beam_size: Of the search; None for the model's own.
        progress: Called with lines of text.

    Returns:
        The choice, which `load` follows from now on; None where there is nothing to choose.

    Raises:
        BundleError: If the bundle holds no reference images.
        BackendError: If there is no GPU, or a decoder fails.
        EngineMismatchError: If an engine is missing.
    """
    backend_entry(backend)
    if not _has_choice(bundle):
        return None
    device = cuda_device()
    if device is None:
        raise BackendError("there is no GPU here to measure captions on")
    names = sorted(name for name in bundle.files if name.startswith(f"{GOLDEN_FOLDER}/"))
    if not names:
        raise BundleError(f"{bundle.path}: holds no reference images to measure captions on; export it again")
    pictures = [read_golden(bundle.path / name)[0] for name in names]
    assert bundle.spec.caption is not None  # as every bundle with caption weights has
    beam_size = beam_size or bundle.spec.caption.beam_size
    options = CaptionOptions(beam_size=beam_size)
    medians: dict[str, float] = {}
    for decoder in CANDIDATES:
        with load(bundle, backend, precision, caption_decoder=decoder) as model:
            times = [
                model.predict(pictures[i % len(pictures)], ("caption",), caption=options).timings_ms["caption"]
                for i in range(WARMUP + runs)
            ]
        medians[decoder] = round(statistics.median(times[WARMUP:]), 3)
        if progress is not None:
            progress(f"captions by {decoder}: {medians[decoder]:.2f} ms, median of {runs}")
    fastest = min(medians, key=lambda decoder: medians[decoder])
    choice = CaptionChoice(backend, precision, device.name, fastest, medians, beam_size, bundle.digest)
    write_choice(bundle, choice)
    return choice


def _has_choice(bundle: Bundle) -> bool:
    return "caption" in bundle.spec.tasks and "fp32" in bundle.caption_weights
