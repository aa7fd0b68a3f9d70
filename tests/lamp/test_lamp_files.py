import json
from pathlib import Path

import pytest

from hydra_ray.errors import InputError
from hydra_ray.lamp.lamp_files import Sample, read_samples, read_targets
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Rejected


def test_samples_agree_with_a_plain_json_reader(tags, write_split, sample_of):
    samples = [sample_of(number, num_records=number) for number in range(5)]
    root = write_split("train", samples, [(number, "romance") for number in range(5)])
    loaded = json.loads(Path(root, "train_questions.json").read_text())
    read = list(read_samples(tags, root, "train", is_new=False))
    assert [sample.position for sample in read] == list(range(5))
    for sample, raw in zip(read, loaded, strict=True):
        assert isinstance(sample, Sample)
        assert sample.user.user_id == f"train:{raw['id']}"
        assert [(query.query_id, query.input) for query in sample.user.queries] == [
            (str(raw["id"]), f"query of {raw['id']}")
        ]
        assert [(record.record_id, record.input, record.output, record.date) for record in sample.user.history] == [
            (record["id"], record["text"], record["tag"], None) for record in raw["profile"]
        ]


def test_targets_agree_with_a_plain_json_reader(write_split):
    root = write_split("dev", [], [("a", "comedy"), (2, 4.0), (3, 4.5), (None, "lost"), ("b", None)])
    assert list(read_targets(root, "dev")) == [("dev:a", "comedy"), ("dev:2", "4"), ("dev:3", "4.5")]
    assert list(read_targets(root, "test")) == []


def test_fields_of_a_record_are_joined_without_the_empty_ones(write_split):
    task = TASKS["LaMP_2N"]
    profile = [
        {"id": "1", "title": "", "text": "body", "category": "Sports"},
        {"id": "2", "title": "head", "text": "body", "category": "sports"},
    ]
    sample = {"id": "x", "input": f"{task.instruction} article: text", "profile": profile}
    (read,) = read_samples(task, write_split("dev", [sample], None), "dev", is_new=True)
    assert isinstance(read, Sample)
    assert [record.input for record in read.user.history] == ["body", "head\nbody"]
    assert {record.output for record in read.user.history} == {"sports"}


def test_documents_of_a_user_are_read_without_being_labels(write_split):
    options = '[1]: "First" [2]: "Second"'
    sample = {
        "id": "7",
        "input": 'For an author who has written the paper with the title "Own", which reference is related? Just '
        f"answer with [1] or [2] without explanation. {options}",
        "profile": [{"id": "1", "title": "A Title", "abstract": "An abstract."}],
    }
    root = write_split("dev", [sample], [("7", "[2]")])
    (read,) = read_samples(TASKS["LaMP_1"], root, "dev", is_new=True)
    assert isinstance(read, Sample)
    assert read.user.queries[0].input == f'"Own"\n{options}'
    assert [(record.input, record.output) for record in read.user.history] == [("An abstract.", "A Title")]


RECORD = {"id": "1", "text": "t", "tag": "comedy"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": None}, "id is missing"),
        ({"id": ""}, "id is empty"),
        ({"id": True}, "id is bool"),
        ({"input": "A bare description"}, "instruction"),
        ({"input": "Which tag? text:  "}, "nothing after it"),
        ({"input": None}, "input is missing"),
        ({"profile": None}, "profile is missing"),
        ({"profile": {"a": 1}}, "profile is dict"),
        ({"profile": ["x"]}, "record is str"),
        ({"profile": [{**RECORD, "id": None}]}, "id of a record is missing"),
        ({"profile": [{"id": "1", "text": "t"}]}, "'tag' of record '1' is missing"),
        ({"profile": [{**RECORD, "text": None}]}, "'text' of record '1' is missing"),
        ({"profile": [{**RECORD, "tag": " "}]}, "output of record '1' is empty"),
        ({"profile": [{**RECORD, "tag": "horror"}]}, "is not a label of tags"),
        ({"profile": [{**RECORD, "date": "yesterday"}]}, "date of record '1'"),
        ({"profile": [RECORD, RECORD]}, "record '1' comes twice"),
    ],
)
def test_a_malformed_sample_is_rejected_with_its_reason_and_the_next_is_read(
    tags, write_split, sample_of, changes, reason
):
    root = write_split("dev", [sample_of("bad", **changes), sample_of("good")], None)
    rejected, sample = read_samples(tags, root, "dev", is_new=True)
    assert isinstance(rejected, Rejected)
    assert (rejected.source, rejected.position) == ("dev_questions.json", 0)
    assert reason in rejected.reason
    assert isinstance(sample, Sample)
    assert sample.user.user_id == "dev:good"


@pytest.mark.parametrize(
    "content", ["", "<html>Not found</html>", '[{"id": "a"},', '{"error": "no such file"}', "[]", '[{"id": "\x00"}]']
)
def test_a_file_that_is_not_lamp_json_is_an_error_that_names_it(tags, write_split, content):
    root = write_split("dev", [], None)
    Path(root, "dev_questions.json").write_text(content)
    with pytest.raises(InputError, match=r"dev_questions\.json"):
        list(read_samples(tags, root, "dev", is_new=True))


def test_missing_files_are_errors_that_name_them(tags, write_split, sample_of):
    root = write_split("train", [sample_of("a")], None)
    with pytest.raises(InputError, match=r"train_outputs\.json"):
        list(read_samples(tags, root, "train", is_new=False))
    with pytest.raises(InputError, match=r"dev_questions\.json"):
        list(read_samples(tags, root, "dev", is_new=True))


def test_samples_before_a_cut_are_read_without_the_rest_of_the_file(tags, write_split, sample_of):
    root = write_split("dev", [sample_of(number, num_records=50) for number in range(100)], None)
    path = Path(root, "dev_questions.json")
    path.write_text(path.read_text()[:-100])
    stream = read_samples(tags, root, "dev", is_new=True)
    assert isinstance(next(stream), Sample)
    with pytest.raises(InputError, match="cut off"):
        list(stream)
