"""Time series: vowels as sktime ships them, spoken digits as a folder of wavs, and what is wrong with a file."""

import os
import wave

import numpy as np
import pytest
import torch

from layerpipe2.errors import UserError
from layerpipe2.lab.data import BatchLoader, load, split
from layerpipe2.lab.data.series import BANDS, FRAMES, mel_bands, threshold_coded, vowels_folder
from layerpipe2.lab.networks import build


def write_vowels(folder, line=""):
    """Two series of each of nine classes in both files, and perhaps another line."""
    rng = np.random.default_rng(0)
    for part in ("TRAIN", "TEST"):
        rows = ["#made", "@problemName JapaneseVowels", "@data"]
        for label in [*range(1, 10)] * 2:
            values = rng.normal(size=(12, rng.integers(7, 30)))
            rows.append(":".join([*(",".join(f"{v:.6f}" for v in channel) for channel in values), str(label)]))
        (folder / f"JapaneseVowels_{part}.ts").write_text("\n".join([*rows, line]))


def write_wav(path, hertz, rate=8000, seconds=0.4, **header):
    """A tone that begins after a tenth of its length."""
    t = np.arange(int(rate * seconds)) / rate
    samples = 12000 * np.sin(2 * np.pi * hertz * t) * (t > seconds / 10)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(header.get("channels", 1))
        file.setsampwidth(header.get("width", 2))
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


@pytest.fixture
def wavs(tmp_path):
    """Each digit twice for training and once for testing."""
    for digit in range(10):
        for number in (0, 5, 6):
            write_wav(tmp_path / f"{digit}_me_{number}.wav", 200 + 250 * digit + number)
    return tmp_path


def test_vowels_are_images_whose_width_is_time(tmp_path):
    write_vowels(tmp_path)
    data = load("japanese-vowels", tmp_path)
    assert data.x_train.shape == data.x_test.shape == (18, 12, 1, 29)
    assert data.y_train.bincount().tolist() == [2] * 9
    flat = data.x_train.transpose(0, 1).reshape(12, -1)
    assert flat.amin(1).tolist() == [0] * 12
    assert flat.amax(1).tolist() == [255] * 12
    (folder := tmp_path / "japanese-vowels").mkdir()
    for path in tmp_path.glob("*.ts"):
        path.rename(folder / path.name)
    assert torch.equal(load("japanese-vowels", tmp_path).x_train, data.x_train)


def test_sktime_is_looked_for_and_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "sktime"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert vowels_folder() == str(package / "datasets/data/JapaneseVowels")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2:3,4:1", "JapaneseVowels_TRAIN.ts has no series of 12 channels"),
        (":".join([*["1,nan"] * 12, "1"]), "TRAIN.ts, series 19: expected at most 29 finite values"),
        (":".join([*[",".join(["1"] * 30)] * 12, "1"]), "series 19: expected at most 29 finite values"),
        (":".join([*["1,two"] * 12, "1"]), "could not convert string to float"),
        (":".join([*["1,2"] * 12, "12"]), "labels run from 0 to 11, expected 0 to 8"),
    ],
)
def test_damaged_vowels_are_refused(line, message, tmp_path):
    write_vowels(tmp_path, line)
    with pytest.raises(UserError, match=message) as caught:
        load("japanese-vowels", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_band_rises_where_its_tone_begins():
    t = np.arange(4000) / 8000
    levels = mel_bands(np.sin(2 * np.pi * 1000 * t) * (t > 0.25), 8000)
    assert levels.shape == (BANDS, FRAMES)
    band = int(levels[:, -1].argmax())
    edges = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + f / 700) for f in (100, 4000)), BANDS + 2) / 2595) - 1)
    assert edges[band] < 1000 < edges[band + 2]
    rises, falls = threshold_coded(levels)
    assert rises[band].any()
    assert not rises[band, : FRAMES // 2 - 2].any()
    assert not falls[band].any()


def test_levels_that_move_by_less_than_the_threshold_give_no_spike():
    levels = np.array([[-42.0, -37, -35, -34, -41, -42]])
    rises, falls = threshold_coded(levels)
    assert rises.tolist() == [[0, 0, 255, 0, 0, 0]]
    assert falls.tolist() == [[0, 0, 0, 0, 255, 0]]


def test_spoken_digits_train_a_spiking_network(wavs):
    data = load("spoken-digits", wavs)
    assert (data.x_train.shape, data.x_test.shape) == ((20, 2, BANDS, FRAMES), (10, 2, BANDS, FRAMES))
    assert set(data.x_train.unique().tolist()) == {0, 255}
    assert data.y_test.bincount().tolist() == [1] * 10
    x, _ = next(iter(BatchLoader(split(data, 0.5, 0).train, 4, mean=data.mean, std=data.std, seed=0)))
    units = build("spiking-mlp", input_shape=data.input_shape, num_classes=10, spiking={"coding": "columns"})
    assert torch.nn.Sequential(*units)(x).shape == (4, 10)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "3_me_7.wav").write_bytes(b"RIFF, or not"), "3_me_7.wav is no wav of 16 bits"),
        (lambda f: (f / "3_me_7.wav").touch(), "3_me_7.wav is no wav of 16 bits"),
        (lambda f: os.truncate(f / "3_me_6.wav", 30), "3_me_6.wav is no wav of 16 bits"),
        (lambda f: os.truncate(f / "3_me_6.wav", 4444), "3_me_6.wav ends after 2200 of its 3200 samples"),
        (lambda f: write_wav(f / "3_me_7.wav", 300, channels=2), "3_me_7.wav is no mono wav"),
        (lambda f: write_wav(f / "3_me_7.wav", 300, seconds=0.01), "3_me_7.wav is no mono wav of 16 bits with 0.032 s"),
        (lambda f: write_wav(f / "three.wav", 300), "three.wav is not named <digit>_<speaker>_<number>.wav"),
        (lambda f: write_wav(f / "7.wav", 300), "7.wav is not named <digit>_<speaker>_<number>.wav"),
        (lambda f: [path.unlink() for path in f.glob("*_0.wav")], "recordings numbered below 5, for testing"),
    ],
)
def test_a_wav_that_is_no_wav_is_refused_in_one_line(harm, message, wavs):
    harm(wavs)
    with pytest.raises(UserError, match=message) as caught:
        load("spoken-digits", wavs)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("spoken-digits: ")
    assert str(wavs) in line
    assert line.endswith("of the Free Spoken Digit Dataset")


def test_without_the_files_the_remedy_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no data found; looked for \*.wav in .*; name the folder of the wavs"):
        load("spoken-digits", tmp_path)
