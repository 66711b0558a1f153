"""Time series as images whose width is time: uint8 (N, channels, height, time steps).

A spiking network reads them column by column (``coding`` columns); to any other network they are images.

``japanese-vowels`` (Kudo, Toyama and Shimbo 1999): two vowels spoken by nine men, as 12 coefficients of a linear
prediction over 7 to 29 steps; who speaks? The files are those of sktime's package, which isn't imported.

``spoken-digits``: a folder of wavs named ``<digit>_<speaker>_<number>.wav``, as the Free Spoken Digit Dataset has them;
the recordings numbered below 5 are its test part. Each becomes mel bands over time, and those become spikes where they
rise or fall by a threshold.
"""

import io
import re
import wave
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerpipe2.errors import read_file
from layerpipe2.lab.data.types import Arrays

VOWELS, STEPS = 12, 29
"""Coefficients and time steps of the vowels."""
BANDS, FRAMES = 16, 32
"""Mel bands and frames of a spoken digit."""
WAVS = "*.wav"
"""Pattern of the recordings' names."""
_LARGEST = 4 * 2**20  # bytes of a file
_WINDOW_S = 0.032  # of the spectrum
_LOWEST_HZ, _RANGE_DB, _STEP_DB = 100.0, 42.0, 6.0


def vowels_folder() -> str | None:
    """Where sktime keeps the files, if it is installed."""
    found = find_spec("sktime")
    return str(Path(found.origin).parent / "datasets/data/JapaneseVowels") if found and found.origin else None


def read_vowels(folder: Path) -> Arrays:
    """JapaneseVowels_TRAIN.ts and JapaneseVowels_TEST.ts: images (12, 1, 29), the coefficients' range as 0 to 255.

    After the end of a shorter series the coefficients are zero. What lies outside of the training part's range is
    clipped.

    Raises:
        ValueError: if a file holds something else.
    """
    (train, y_train), (test, y_test) = (_ts(folder / f"JapaneseVowels_{part}.ts") for part in ("TRAIN", "TEST"))
    low, high = train.min((0, 2), keepdims=True), train.max((0, 2), keepdims=True)
    images = [
        np.rint(255 * np.clip((x - low) / np.maximum(high - low, 1e-9), 0, 1)).astype(np.uint8) for x in (train, test)
    ]
    return Arrays(images[0][:, :, None], y_train, images[1][:, :, None], y_test)


def _ts(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Series (N, 12, 29), zeros behind a shorter one's end, and classes (N,), from 0."""
    lines = read_file(path, _LARGEST).decode("ascii").splitlines()
    rows = [line.split(":") for line in lines if line and line[0] not in "#@"]
    if not rows or {len(row) for row in rows} != {VOWELS + 1}:
        raise ValueError(f"{path.name} has no series of {VOWELS} channels and a class")
    series = np.zeros((len(rows), VOWELS, STEPS))
    for number, row in enumerate(rows):
        for channel, text in enumerate(row[:-1]):
            values = np.array(text.split(","), dtype=np.float64)
            if len(values) > STEPS or not np.isfinite(values).all():
                raise ValueError(f"{path.name}, series {number + 1}: expected at most {STEPS} finite values")
            series[number, channel, : len(values)] = values
    return series, np.array([int(row[-1]) - 1 for row in rows])


def read_digits_folder(folder: Path) -> Arrays:
    """A folder of wavs: images (2, 16, 32) of spikes, 255 where a band of the first channel rises, of the second falls.

    Raises:
        ValueError: naming the file that isn't what it should be.
    """
    parts: dict[bool, list[tuple[NDArray[np.uint8], int]]] = {False: [], True: []}
    for path in sorted(folder.glob(WAVS)):
        if not (name := re.fullmatch("([0-9])_.+_([0-9]+)", path.stem)):
            raise ValueError(f"{path.name} is not named <digit>_<speaker>_<number>.wav")
        digit, number = map(int, name.groups())
        parts[number < 5].append((threshold_coded(mel_bands(*_samples(path))), digit))
    if not all(parts.values()):
        raise ValueError("recordings numbered below 5, for testing, and others, for training, are needed")
    stacked = [(np.stack([x for x, _ in part]), np.array([y for _, y in part])) for part in parts.values()]
    return Arrays(*stacked[0], *stacked[1])


def _samples(path: Path) -> tuple[NDArray[np.float64], int]:
    """Samples from -1 to 1 and their number per second."""
    try:
        with wave.open(io.BytesIO(read_file(path, _LARGEST))) as file:
            shape, rate, count = (file.getnchannels(), file.getsampwidth()), file.getframerate(), file.getnframes()
            samples = np.frombuffer(file.readframes(count), dtype="<i2")
    except (wave.Error, EOFError, ValueError) as error:
        raise ValueError(f"{path.name} is no wav of 16 bits: {error or 'it ends too early'}") from None
    if shape != (1, 2) or len(samples) < _WINDOW_S * rate + FRAMES or rate < 4 * _LOWEST_HZ:
        raise ValueError(f"{path.name} is no mono wav of 16 bits with {_WINDOW_S:g} s of sound or more")
    if len(samples) != count:
        raise ValueError(f"{path.name} ends after {len(samples)} of its {count} samples")
    return samples / 2**15, rate


def mel_bands(samples: NDArray[np.float64], rate: int) -> NDArray[np.float64]:
    """Loudness (16, 32) of mel bands in frames that cover the recording, in dB below its loudest, at least -42."""
    window = int(_WINDOW_S * rate)
    starts = np.linspace(0, len(samples) - window, FRAMES).astype(int)
    frames = np.stack([samples[start : start + window] for start in starts]) * np.hanning(window)
    power = np.abs(np.fft.rfft(frames)) ** 2
    low, high = (float(2595 * np.log10(1 + hertz / 700)) for hertz in (_LOWEST_HZ, rate / 2))
    edges = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    up, down = (np.diff(edges)[i : i + BANDS, None] for i in (0, 1))
    bins = np.fft.rfftfreq(window, 1 / rate)
    weights = np.clip(np.minimum((bins - edges[:-2, None]) / up, (edges[2:, None] - bins) / down), 0, None)
    bands = weights @ power.T
    return np.asarray(np.maximum(10 * np.log10(np.maximum(bands / max(bands.max(), 1e-12), 1e-12)), -_RANGE_DB))


def threshold_coded(levels: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Levels (bands, frames) in dB -> spikes (2, bands, frames), 255 where one has risen or fallen by 6 dB or more.

    Counted is from the level at its last spike, at first from silence.
    """
    spikes = np.zeros((2, *levels.shape), dtype=np.uint8)
    last = np.full(len(levels), -_RANGE_DB)
    for t, now in enumerate(levels.T):
        spikes[:, :, t] = 255 * np.stack([now - last >= _STEP_DB, last - now >= _STEP_DB])
        last = np.where(spikes[:, :, t].any(0), now, last)
    return spikes
