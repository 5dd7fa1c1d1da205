"""Words with noise for a whole hospital in them: a round that is asked again gets those that it got the first time.

Under site-level privacy each hospital adds its share of the noise to its own words
(`common.privacy.discrete_gaussian`). A second draw would be a second look at the same update: the mean of a hundred has
a tenth of the noise. So the words are on the disk before they leave under their masks, and a round whose words are gone
is refused once it was summed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from shutil import rmtree

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.config.study import StudyConfig
from common.errors import PrivacyError, StateError
from common.files import write_atomic
from common.messages import Question, Train
from common.privacy.mask_keys import MaskWords

SUFFIX = ".words"
KEPT_ROUNDS = 8
"""Of each training: a coordinator that was put back from a backup asks some of the latest rounds again."""

Words = tuple[dict[str, str], MaskWords]
"""Layout, and words before any mask."""


def is_noised(study: StudyConfig, question: Question) -> bool:
    """Whether the answer has noise in it that no ledger counts by the draw."""
    return isinstance(question, Train) and study.privacy.site_level is not None


class NoisedWords:
    """Words by study, training and round, a file each, below a hospital's state."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "noised"

    def load(self, question: Train, asked: str) -> Words | None:
        """The words that answered this question before; None where there are none.

        Raises
        ------
        PrivacyError
            If the round was asked with other parameters then.
        StateError
            If they are damaged.
        """
        path = self._path(question, question.round_number)
        try:
            tensors = load(path.read_bytes())
            about = json.loads(tensors["about"].tobytes())
            words = MaskWords(tensors["wide"], tensors["narrow"])
            if about["sha256"] != _sha256(words):
                raise ValueError("its content is not what was written")
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise StateError(f"{path} cannot be read: {error}") from error
        if about["asked"] != asked:
            raise PrivacyError(f"round {question.round_number} of {question.model} was asked with other parameters")
        return about["layout"], words

    def keep(self, question: Train, asked: str, noised: Words) -> None:
        """Write the words of a round; the oldest go.

        Raises
        ------
        StateError
            If they cannot be written.
        """
        layout, words = noised
        about = json.dumps({"asked": asked, "layout": layout, "sha256": _sha256(words)}).encode()
        content = save({"about": np.frombuffer(about, np.uint8), "wide": words.wide, "narrow": words.narrow})
        path = self._path(question, question.round_number)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for old in path.parent.glob(f"{_stream(question)}.*{SUFFIX}"):
                if int(old.name.split(".")[1]) <= question.round_number - KEPT_ROUNDS:
                    old.unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"cannot write {path.parent}: {error.strerror or error}") from error
        write_atomic(path, content)

    def forget(self, study_digest: str) -> None:
        """The study is over."""
        rmtree(self._of(study_digest), ignore_errors=True)

    def _of(self, study_digest: str) -> Path:
        return self._folder / hashlib.sha256(study_digest.encode()).hexdigest()[:32]

    def _path(self, question: Train, round_number: int) -> Path:
        return self._of(question.study_digest) / f"{_stream(question)}.{round_number}{SUFFIX}"


def _stream(question: Train) -> str:
    """A file name that nothing in a question can reach out of."""
    return hashlib.sha256(f"{question.model}/fold{question.fold}".encode()).hexdigest()[:32]


def _sha256(words: MaskWords) -> str:
    return hashlib.sha256(words.wide.tobytes() + words.narrow.tobytes()).hexdigest()
