"""The task of a label array: by the labels, by the data set's name, by flags; what is ambiguous is asked for."""

import json

import numpy as np
import pytest
import torch

from src.data.specs import find_spec
from src.errors import UserError
from src.tasks import Classification, EmotionClassification, ScoresRegression, task_of_result
from src.tasks.choice import Asked, choose

RANDOM = np.random.default_rng(0)
SENTIMENT = RANDOM.uniform(-3, 3, 30)
UNIT = RANDOM.uniform(-1, 1, 30)


def classes(count, n=30):
    return np.arange(n) % count


def one_hot(count, n=30):
    return np.eye(count)[classes(count, n)]


def pairs(count, n=30):
    return np.eye(2)[RANDOM.integers(0, 2, (n, count))]


def chosen(labels, name="mine", **flags):
    """The choice for labels under a data set's name, with flags of main.py as texts."""
    spec = find_spec(name)
    texts = dict.fromkeys(("task", "label_names", "scale", "class_weights")) | flags
    return choose(np.asarray(labels), Asked.of(**texts), spec.tasks, spec.known_by, "train labels")


@pytest.mark.parametrize("labels, expected", [
    (SENTIMENT.reshape(-1, 1, 1), "sentiment, from -3 to 3"),
    (SENTIMENT.reshape(-1, 1), "sentiment, from -3 to 3"),
    (SENTIMENT.round(), "sentiment, from -3 to 3"),
    (np.append(SENTIMENT, 3.0000002), "sentiment, from -3 to 3"),
    (classes(3), "classes of 0, 1, 2"),
    (classes(7).reshape(-1, 1).astype(np.float32), "classes of 0, 1, 2, 3, 4, 5, 6"),
    (classes(6).reshape(-1, 1, 1), "classes of 0, 1, 2, 3, 4, 5"),
    (one_hot(3), "classes of 0, 1, 2"),
    (one_hot(6).astype(bool), "classes of 0, 1, 2, 3, 4, 5"),
    (one_hot(4)[:, None], "classes of 0, 1, 2, 3"),
    (RANDOM.uniform(-1, 1, (30, 2)), "scores of label_1, label_2"),
    (RANDOM.uniform(1, 9, (30, 1, 3)), "scores of label_1, label_2, label_3"),
    (RANDOM.integers(1, 6, (30, 2)), "scores of label_1, label_2"),
    (pairs(4), "emotions of label_1, label_2, label_3, label_4"),
    (pairs(2), "emotions of label_1, label_2"),
    (pairs(6).astype(np.int8), "emotions of " + ", ".join(f"label_{i}" for i in range(1, 7))),
])
def test_labels_that_show_their_task(labels, expected):
    task, reason = chosen(labels)
    assert str(task) == expected
    assert reason.startswith("(N,")
    assert len(task.read_labels(labels, "labels")) == len(labels)


@pytest.mark.parametrize("labels, found, flags", [
    (classes(2).reshape(-1, 1, 1), "hold only 0 and 1 in (N, 1, 1)", ("classes", "--scale LOW HIGH, such as 0 1")),
    (classes(2).reshape(-1, 1), "hold only 0 and 1 in (N, 1)", ("classes", "scale", "sentiment")),
    (classes(2), "hold only 0 and 1 in (N,)", ("classes", "scale", "sentiment")),
    (2 * classes(2) - 1, "hold only -1 and 1 in (N,)", ("classes", "--scale LOW HIGH, such as -1 1")),
    (UNIT.reshape(-1, 1, 1), "are numbers from -0.", ("such as -1 1", "--task sentiment for -3 to 3")),
    (classes(3) - 1, "hold only -1 and 0 and 1", ("classes", "scale", "sentiment")),
    (np.abs(UNIT), "are numbers from 0.", ("such as 0 1", "sentiment")),
    (np.abs(SENTIMENT), "are numbers from 0.", ("such as 0 3", "sentiment")),
    (classes(5) + 1, "are whole numbers from 1 to 5", ("classes", "such as 1 5")),
    (2 * classes(3), "hold only 0 and 2 and 4", ("classes", "scale")),
    (RANDOM.uniform(1, 5, 30), "are numbers from 1.", ("such as 1 5",)),
    (one_hot(2), "are one-hot in (N, 2)", ("classes", "emotions", "scores")),
    (one_hot(2)[:, None], "are one-hot in (N, 1, 2)", ("classes", "emotions", "scores")),
    (pairs(6)[..., 0], "hold only 0 and 1 in (N, 6), and are not one-hot", ("emotions", "scores")),
])
def test_labels_that_can_be_read_in_several_ways_are_refused_with_the_flags(labels, found, flags):
    with pytest.raises(UserError) as refused:
        chosen(labels)
    message = str(refused.value)
    assert message.startswith(f"train labels {found}")
    assert "\n" not in message
    assert "the task cannot be told from them; give " in message
    assert all(flag in message for flag in flags)


@pytest.mark.parametrize("labels, words", [
    (np.zeros((9, 2, 3)), "has shape (9, 2, 3); expected (N,), (N, 1)"),
    (np.zeros((9, 2, 2, 2)), "has shape (9, 2, 2, 2); expected"),
    (np.zeros((9, 0, 2)), "has shape (9, 0, 2); expected"),
    (np.append(SENTIMENT, 3.5), "holds 3.5: sentiment goes from -3 to 3; rescale the labels to it, or give --scale"),
])
def test_labels_of_no_task(labels, words):
    with pytest.raises(UserError) as refused:
        chosen(labels)
    assert words in str(refused.value)


@pytest.mark.parametrize("labels, flags, expected", [
    (classes(2).reshape(-1, 1, 1), {"task": "classes"}, "classes of 0, 1"),
    (classes(2), {"label_names": "no,yes"}, "classes of no, yes"),
    (2 * classes(2) - 1, {"task": "classes", "label_names": "no,yes"}, "classes of no, yes"),
    (classes(3), {"label_names": "a,b,c,d"}, "classes of a, b, c, d"),
    (classes(5) + 1, {"task": "classes"}, "classes of 1, 2, 3, 4, 5"),
    (one_hot(2), {"task": "classes"}, "classes of 0, 1"),
    (one_hot(2), {"task": "scores", "label_names": "valence,arousal"}, "scores of valence, arousal"),
    (one_hot(2), {"task": "emotions"}, "emotions of label_1, label_2"),
    (pairs(6)[..., 0], {"task": "emotions"}, "emotions of " + ", ".join(f"label_{i}" for i in range(1, 7))),
    (pairs(3), {"label_names": "joy,fear,anger"}, "emotions of joy, fear, anger"),
    (pairs(1), {"task": "emotions"}, "emotions of label_1"),
    (UNIT, {"scale": "-1,1"}, "score, from -1 to 1 of score"),
    (classes(5) + 1, {"scale": "1,5"}, "score, from 1 to 5 of score"),
    (UNIT, {"task": "score", "scale": "-1,1", "label_names": "valence"}, "score, from -1 to 1 of valence"),
    (UNIT, {"scale": "-3,3"}, "sentiment, from -3 to 3"),
    (UNIT, {"task": "sentiment"}, "sentiment, from -3 to 3"),
    (RANDOM.uniform(1, 9, (30, 2)), {"scale": "1,9"}, "scores, from 1 to 9 of label_1, label_2"),
])
def test_flags_decide(labels, flags, expected):
    task, _ = chosen(labels, **flags)
    assert str(task) == expected
    task.read_labels(labels, "labels")


@pytest.mark.parametrize("flags, words", [
    ({"task": "score"}, "--task score needs --scale LOW HIGH"),
    ({"scale": "5,1"}, "--scale 5,1 is no scale"),
    ({"scale": "0,1", "task": "classes"}, "--scale 0,1 contradicts --task classes"),
    ({"scale": "0,1", "task": "sentiment"}, "--scale 0,1 contradicts --task sentiment"),
    ({"label_names": "a,b,a"}, "has a name twice"),
])
def test_flags_that_contradict_each_other(flags, words):
    with pytest.raises(ValueError, match=words):
        chosen(UNIT, **flags)


@pytest.mark.parametrize("labels, flags, words", [
    (SENTIMENT, {"task": "classes"}, "classes are whole numbers"),
    (classes(3), {"label_names": "a,b"}, "has 3 classes (0, 1, 2); --label_names has 2 names"),
    (one_hot(3), {"label_names": "a,b"}, "has 3 columns; expected one for each of a, b"),
    (np.zeros(9), {"task": "classes"}, "a task needs two or more"),
    (np.arange(900), {"task": "classes"}, "more than 100 classes"),
    (SENTIMENT, {"label_names": "joy"}, "--label_names has 1 names; train labels are sentiment, from -3 to 3"),
])
def test_flags_that_do_not_fit_the_labels(labels, flags, words):
    with pytest.raises(UserError) as refused:
        task, _ = chosen(labels, **flags)
        task.read_labels(labels, "train labels")
    assert words in str(refused.value)


@pytest.mark.parametrize("name, labels, expected", [
    ("mosi", SENTIMENT, "sentiment, from -3 to 3"),
    ("simsv2", UNIT, "unit_sentiment, from -1 to 1"),
    ("meld", classes(7), "classes of neutral, surprise, fear, sadness, joy, disgust, anger"),
    ("meld", one_hot(7), "classes of neutral, surprise, fear, sadness, joy, disgust, anger"),
    ("meld", classes(3).reshape(-1, 1), "classes of neutral, positive, negative"),
    ("iemocap", classes(6), "classes of happy, sad, neutral, angry, excited, frustrated"),
    ("iemocap", pairs(4), "emotions of Neutral, Happy, Sad, Angry"),
    ("ur_funny", classes(2).reshape(-1, 1), "classes of not humorous, humorous"),
    ("humor", classes(2).reshape(-1, 1, 1), "classes of not humorous, humorous"),
    ("mustard", 2 * classes(2).reshape(-1, 1) - 1, "classes of not sarcastic, sarcastic"),
    ("sarcasm", classes(2), "classes of not sarcastic, sarcastic"),
    ("mosei", pairs(6), "emotions of happy, sad, anger, surprise, disgust, fear"),
    ("mosei", pairs(6)[..., 0], "emotions of happy, sad, anger, surprise, disgust, fear"),
    ("mosei", RANDOM.uniform(0, 3, (30, 1, 7)), "scores of sentiment, happy, sad, anger, surprise, disgust, fear"),
])
def test_known_sets_have_their_names(name, labels, expected):
    task, reason = chosen(labels, name)
    assert str(task) == expected
    assert reason.startswith(f"known of {find_spec(name).name}")


def test_a_source_is_said_and_another_order_can_be_given():
    assert "by the README of declare-lab/MELD" in chosen(classes(7), "meld").reason
    names = "neutral,joy,sadness,anger,fear,disgust,surprise"
    assert chosen(classes(7), "meld", label_names=names).task.labels == tuple(names.split(","))


@pytest.mark.parametrize("name, labels, words", [
    ("mosi", classes(2).reshape(-1, 1, 1), "hold only 0 and 1 in (N, 1, 1)"),
    ("iemocap", classes(4), "are classes of 0, 1, 2, 3, by (N,): all whole numbers from 0 to 3, which is not known of"),
    ("meld", classes(9), "holds 7, not the number of one of the classes 0 neutral"),
    ("mosi", pairs(3), "have shape (30, 3, 2), not that of a task known of mosi"),
])
def test_other_labels_under_a_known_name_are_refused(name, labels, words):
    with pytest.raises(UserError) as refused:
        chosen(labels, name)
    assert words in str(refused.value)


def test_classes_are_numbered_by_their_values():
    task, _ = chosen(np.array([[-1], [1], [1]]), "mustard")
    assert task.read_labels(np.array([1, -1]), "labels").tolist() == [[1], [0]]
    assert task.read_labels(np.array([[[0, 1]], [[1, 0]]]), "labels").tolist() == [[1], [0]]


def test_a_label_a_rounding_beyond_is_clipped_and_counted():
    task, _ = chosen(np.append(SENTIMENT, [3.0000002, -3.00001]))
    assert task.read_labels(np.array([3.0000002]), "labels").item() == 3
    assert task.changes(np.array([3.0000002, -3.00001, 3])) == "2 a rounding beyond -3 to 3, clipped to it"
    assert task.changes(np.array([3.0])) == ""
    with pytest.raises(UserError, match=r"holds 3\.001: sentiment"):
        task.read_labels(np.array([3.001]), "labels")


@pytest.mark.parametrize("labels, flags", [
    (SENTIMENT, {}), (UNIT, {"scale": "-1,1"}), (RANDOM.uniform(1, 5, (30, 2)), {"scale": "1,5"}), (pairs(3), {}),
    (classes(3), {"label_names": "a,b,c"}), (2 * classes(2) - 1, {"task": "classes"}),
])
def test_a_record_gives_the_task_again(labels, flags):
    task, _ = chosen(labels, **flags)
    again = task_of_result(json.loads(json.dumps({"protocol": "MulT", **task.record()})))
    assert (str(again), again.columns, again.record()) == (str(task), task.columns, task.record())
    assert torch.equal(again.read_labels(labels, "labels"), task.read_labels(labels, "labels"))


def test_balanced_weights_let_every_class_weigh_the_same():
    task, labels = Classification(("a", "b", "c")), torch.tensor([[0]] * 6 + [[1]] * 3 + [[2]])
    balanced = task.weighted("balanced", labels)
    assert balanced.weights == pytest.approx((10 / 18, 10 / 9, 10 / 3))
    logits = torch.randn(10, 3)
    expected = torch.nn.functional.cross_entropy(logits, labels[:, 0], torch.tensor(balanced.weights))
    assert balanced.loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    assert task.weighted("1,2,3", labels).weights == (1, 2, 3)
    assert task.weighted(None, labels) is task


def test_weights_of_emotions_are_those_of_yes():
    task, labels = EmotionClassification(("a", "b")), torch.tensor([[1, 0], [0, 0], [0, 1], [0, 1]])
    assert task.weighted("balanced", labels).weights == (3, 1)
    logits = torch.randn(4, 4)
    same = task.weighted("1,1", labels).loss(logits, labels)
    assert same.item() == pytest.approx(task.loss(logits, labels).item(), rel=1e-6)
    assert task.weighted("9,1", labels).loss(logits, labels).item() > same.item()


@pytest.mark.parametrize("task, asked, words", [
    (Classification(("a", "b")), "1,2,3", "--class_weights has 3 numbers; give one for each of a, b"),
    (Classification(("a", "b", "c")), "balanced", "no training sample is c"),
    (EmotionClassification(("a", "b")), "balanced", "no training sample has b"),
    (ScoresRegression(("a", "b")), "balanced", "leave it out for the scores a, b"),
])
def test_weights_that_cannot_be(task, asked, words):
    labels = torch.tensor([[0, 0], [1, 0]]) if task.name == "emotions" else torch.tensor([[0], [1]])
    with pytest.raises(ValueError, match=words):
        task.weighted(asked, labels)
