"""The landmark phase: what Nyul's histogram standardisation maps every image to, learned before features are measured.

Where one split is held out, landmarks are learned from training cases alone. With several folds they are learned once,
from all cases of the hospitals that train: they are means of percentiles and know no outcome, and landmarks for each
fold would mean features measured anew for each.
"""

from __future__ import annotations

from common.config.study import StudyConfig
from common.messages import Landmarks, landmark_table_name
from common.statistics.nyul import learn_landmarks
from server.checkpoint import CheckpointStore, Unit
from server.conversation import Conversation
from server.courses import FEDERATED, Course
from server.learning import Learner
from server.preparation import measured

LANDMARKS = "landmarks"
"""Name of the unit."""


def standardise(study: StudyConfig, conversation: Conversation, store: CheckpointStore) -> Landmarks:
    """Landmarks of every image that waits for them: from the checkpoint, or from the sites; saved image by image.

    Every course works with the same landmarks, baselines too: they belong to the image, as a spacing does.

    Raises
    ------
    FederationError
        Where a site that trains refuses, for example because its cases are too few.
    StatisticError
        Where landmarks do not rise.
    """
    saved = store.load(LANDMARKS)
    found: dict[str, tuple[float, ...]] = dict(landmarks_of_unit(saved)) if saved is not None else {}
    trainers = Course(FEDERATED, study.training_sites)
    for image in study.images:
        if image.waiting is None or image.name in found:
            continue
        table = landmark_table_name(image.name)
        measured(study, trainers.trainers, conversation, table=table)
        learner = Learner(study, trainers, 0, conversation, phase=f"learn {table}", table=table)
        found[image.name] = learner.learn(learn_landmarks(image.name, image.waiting.percentiles), ())
        store.save(LANDMARKS, Unit({}, {name: list(values) for name, values in found.items()}))
        told = ", ".join(f"{value:.4g}" for value in found[image.name])
        conversation.journal.write("note", text=f"landmarks of {image.name}, learned by all training sites: {told}")
    return found


def landmarks_of_unit(unit: Unit) -> Landmarks:
    """Landmarks as `standardise` saved them."""
    return {name: tuple(values) for name, values in unit.values.items()}
