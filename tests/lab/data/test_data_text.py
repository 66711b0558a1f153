"""Text: what it is cut into, and how it trains."""

import hashlib
import math
from dataclasses import replace

import pytest
import torch

from layerpipe2.errors import UserError
from layerpipe2.lab.data import TEXTS, BatchLoader, load, split
from layerpipe2.lab.data import text as texts
from layerpipe2.lab.data.text import ALPHABET, VOCABULARY, encode, load_text, paragraphs
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.train import train_run

CONTEXT = TEXTS["python-docs"].context
SMALL = {"network": "gpt", "dataset": "python-docs", "width": 8, "batch_size": 64, "max_steps": 3, "epochs": 1}


@pytest.fixture(scope="module")
def text():
    return load("python-docs")


def test_the_text_is_windows_with_the_next_character_as_the_answer(text):
    read = "".join(ALPHABET[i] if i < len(ALPHABET) else "?" for i in text.x_train[:2000].flatten().tolist())
    assert 'The "assert" statement' in " ".join(read.split()) or "Assert statements" in read
    assert (text.input_shape, text.num_classes, VOCABULARY) == ((CONTEXT,), 97, 97)
    assert len(text.x_train) > 2000
    assert len(text.x_test) == pytest.approx(len(text.x_train) / 9, rel=0.01)
    assert torch.equal(text.x_train[:, 1:].long(), text.y_train[:, :-1])
    assert torch.equal(text.y_train[:-1, -1], text.x_train[1:, 0].long())
    assert "pydoc_data.topics of Python 3." in text.source


def test_a_paragraph_counts_once_and_characters_outside_the_alphabet_share_one_number():
    assert paragraphs({"b": "two\n\none", "a": "one\n\nthree"}) == "one\n\nthree\n\ntwo"
    assert encode("\n ~é漢").tolist() == [0, 1, 95, 96, 96]


def test_validation_windows_are_the_seeds_and_no_training_windows(text):
    parts, again, other = split(text, 0.1, 3), split(text, 0.1, 3), split(text, 0.1, 4)
    assert len(parts.validation) == round(0.1 * len(text.x_train))
    assert len(parts.train) + len(parts.validation) == len(text.x_train)
    assert torch.equal(parts.validation.x, again.validation.x)
    assert not torch.equal(parts.validation.x, other.validation.x)


def test_batches_are_token_numbers(text):
    x, y = next(iter(BatchLoader(split(text, 0.1, 0).train, 4, mean=(), std=(), seed=0, shuffle=True)))
    assert (x.dtype, y.dtype, x.shape, y.shape) == (torch.int64, torch.int64, (4, CONTEXT), (4, CONTEXT))


def test_a_language_model_trains_through_the_pipeline():
    record = train_run(RunConfig(**SMALL, strategy="ema-span", optimizer="adamw", lr=1e-3), progress=False)
    assert record["status"] == "completed"
    assert record["delays"] == list(range(18, -1, -2))
    assert record["test"]["loss"] < math.log(VOCABULARY) + 0.1
    assert 0 < record["test"]["accuracy"] < 1


def test_text_is_not_augmented():
    with pytest.raises(UserError, match="augment crops and mirrors images"):
        train_run(RunConfig(**SMALL, augment=True), progress=False)


def test_a_python_without_the_text_is_refused():
    def missing(root):
        raise ModuleNotFoundError("No module named 'pydoc_data'", name="pydoc_data")

    message = "python-docs: this Python has no module pydoc_data; install a complete Python"
    with pytest.raises(UserError, match=message):
        load_text(replace(TEXTS["python-docs"], read=missing))


def _wordnet(folder, glosses):
    """Files as Debian's wordnet-base has them: a licence in lines that begin with blanks, then the meanings."""
    folder.mkdir()
    for part in ("noun", "verb", "adj", "adv"):
        lines = [
            f'0000{n} 03 n 01 thing 0 000 | {part} number {n % glosses}; "it is {n}"  ' for n in range(2 * glosses)
        ]
        licence = "  1 This software | and database is provided"
        (folder / f"data.{part}").write_text("\n".join([licence, *lines, lines[0]]), encoding="ascii")
    return folder


def test_wordnet_is_its_glosses_once_each_in_an_order_of_their_own(tmp_path):
    text = load("wordnet", root=_wordnet(tmp_path / "wordnet", 200).parent)
    assert text.input_shape == (64,)
    assert f"WordNet in {tmp_path / 'wordnet'}" in text.source
    read = "".join(ALPHABET[i] for i in torch.cat([text.x_train, text.x_test]).flatten().tolist())
    lines = read.split("\n")[:-1]
    assert len(lines) > 1500
    assert len(set(lines)) == len(lines)
    assert not any("software" in line or line != line.strip() for line in lines)
    kinds = [line.split()[0] for line in lines]
    assert {*kinds[:20]} == {*kinds[-20:]} == {"noun", "verb", "adj", "adv"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "data.adv").unlink(), r"wordnet: .*data\.adv can't be read \(No such file"),
        (lambda folder: [path.write_text("", encoding="ascii") for path in folder.iterdir()], "too few to train on"),
    ],
)
def test_a_damaged_wordnet_is_refused(damage, message, tmp_path):
    folder = _wordnet(tmp_path / "wordnet", 200)
    damage(folder)
    with pytest.raises(UserError, match=f"{message}.*apt-get install wordnet-base"):
        load("wordnet", root=folder)


def _shakespeare(folder, monkeypatch):
    """A text in the place of tiny Shakespeare, taken for the published one."""
    content = b"ROMEO:\nO, speak again, bright angel!\n\n" * 50
    (folder / "tiny-shakespeare.txt").write_bytes(content)
    monkeypatch.setattr(texts, "SHAKESPEARE_MD5", hashlib.md5(content, usedforsecurity=False).hexdigest())


def test_tiny_shakespeare_is_read_whole_and_its_last_tenth_is_for_testing(tmp_path, monkeypatch):
    _shakespeare(tmp_path, monkeypatch)
    text = load("tiny-shakespeare", root=tmp_path)
    assert (text.input_shape, len(text.x_train), len(text.x_test)) == ((64,), 26, 3)
    read = "".join(ALPHABET[i] for i in torch.cat([text.x_train, text.x_test]).flatten().tolist())
    assert read.startswith("ROMEO:\nO, speak again, bright angel!\n\nROMEO:")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "can't be read"),
        (lambda file: file.write_bytes(b"To be"), "is damaged, or another"),
    ],
)
def test_another_text_than_tiny_shakespeare_is_refused(damage, message, tmp_path, monkeypatch):
    _shakespeare(tmp_path, monkeypatch)
    damage(tmp_path / "tiny-shakespeare.txt")
    with pytest.raises(UserError, match=rf"tiny-shakespeare: .*{message}.*curl -o tiny-shakespeare\.txt https://"):
        load("tiny-shakespeare", root=tmp_path)
