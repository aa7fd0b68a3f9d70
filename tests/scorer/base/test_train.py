import json
import math
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hydra_ray.config import BaseConfig, PlacementConfig
from hydra_ray.errors import DamagedError
from hydra_ray.rows import Candidate, Group, UserExamples, arrow_schema, from_table, to_table
from hydra_ray.runs.stage import Stage
from hydra_ray.scorer.base.batches import TrainingGroupStream
from hydra_ray.scorer.base.spec import BaseShape, base_name_of
from hydra_ray.scorer.base.task import TrainingTask
from hydra_ray.scorer.base.train import train_bases, train_missing
from hydra_ray.scorer.heads.features import FeatureWriter, read_features
from hydra_ray.scorer.splits import is_holdout
from hydra_ray.storage import read_json, read_part, write_part

WORDS = ["cat", "dog", "red", "blue", "sun", "moon", "tea", "rice", "king", "road"]
HANDCRAFTED_NAMES = ("noise", "constant")


def example_user(user_id, rng, *, is_new, is_pair, fold):
    """The right candidate is the one whose word is in the query."""
    groups = []
    for place in range(5):
        words = rng.choice(WORDS, 4, replace=False)
        right = int(rng.integers(4))
        filler = " ".join(rng.choice(WORDS, 3)) if is_pair else ""
        is_known = not is_new or place < 4
        candidates = tuple(
            Candidate(
                candidate_id=f"c{c}",
                text=f"{word} {filler}".strip(),
                plain=(float(rng.normal()), 3.0),
                quality=float(c == right) if is_known else None,
            )
            for c, word in enumerate(words)
        )
        group = Group(
            group_id=f"g{place}",
            query_id=f"q{place}",
            variant="personal",
            is_pseudo=place < 4,
            query=f"{words[right]} {words[right]}",
            candidates=candidates,
        )
        groups.append(group)
    return UserExamples(user_id=user_id, is_new=is_new, fold=fold, groups=tuple(groups))


def write_examples(root, *, is_pair=False, num_users=(9, 6)):
    rng = np.random.default_rng(0)
    stage = Stage(name="planted.examples", fingerprint="e" * 16, root=str(root), num_buckets=len(num_users))
    for bucket, count in enumerate(num_users):
        users = [
            example_user(
                f"u{bucket}.{place}",
                rng,
                is_new=place % 3 == 2,
                is_pair=is_pair,
                fold=place % 2 if place % 3 < 2 else None,
            )
            for place in range(count)
        ]
        write_part(stage.part("examples", bucket), to_table(users, UserExamples))
    return stage


def stage_at(root, name):
    return Stage(name=f"planted.{name}", fingerprint="b" * 16, root=str(root), num_buckets=2)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny encoder with random weights."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return str(folder)


def base_config(encoder, **settings):
    defaults = {"width": 8, "max_text_tokens": 32, "num_epochs": 2, "batch_groups": 4, "holdout_fraction": 0.3}
    return BaseConfig(encoder=encoder, **{**defaults, **settings})


def task_of(examples, stage, config, placement, fold=None, interaction="bilinear"):
    return TrainingTask(
        locations=tuple(examples.parts("examples")),
        destination=f"{stage.folder}/{base_name_of(fold)}",
        config=config,
        shape=BaseShape(
            interaction=interaction,
            handcrafted_names=HANDCRAFTED_NAMES,
            width=config.width,
            max_text_tokens=config.max_text_tokens,
        ),
        placement=placement,
        fold=fold,
        has_soft_targets=False,
    )


def stream_of(stage, rank=0, num_ranks=1, fold=None, **settings):
    config = base_config("any", **settings)
    return TrainingGroupStream(stage.parts("examples"), 2, config, rank, num_ranks, fold, has_soft_targets=False)


def keys_of(training_groups):
    return [(each.user_index, each.group.group_id) for each in training_groups]


def test_ranks_share_the_training_users_and_nobody_else(tmp_path):
    stage = write_examples(tmp_path)
    whole = keys_of(stream_of(stage).training_groups(is_held_out=False)) + keys_of(
        stream_of(stage).training_groups(is_held_out=True)
    )
    shares = [
        key
        for rank in range(3)
        for is_held_out in (False, True)
        for key in keys_of(stream_of(stage, rank, 3).training_groups(is_held_out=is_held_out))
    ]
    assert sorted(shares) == sorted(whole)
    assert len(whole) == len(set(whole)) == 10 * 5
    assert {user for user, _ in whole} == set(range(10))


@pytest.mark.parametrize("fold", [0, 1])
def test_users_of_the_fold_teach_nothing(tmp_path, fold):
    stage = write_examples(tmp_path)
    streams = stream_of(stage), stream_of(stage, fold=fold)
    everybody, others = (
        {each.group for is_held_out in (False, True) for each in stream.training_groups(is_held_out=is_held_out)}
        for stream in streams
    )
    new = {
        group
        for location in stage.parts("examples")
        for user in from_table(read_part(location, arrow_schema(UserExamples)), UserExamples)
        if user.fold == fold
        for group in user.groups
    }
    assert others == everybody - new
    assert len(everybody) == 50
    assert len(new) == 25
    assert streams[1].survey.num_users == 5


def test_survey_counts_what_is_streamed(tmp_path):
    stream = stream_of(write_examples(tmp_path))
    assert stream.survey.num_users == 10
    assert stream.survey.num_training_groups == len(list(stream.training_groups(is_held_out=False)))
    assert stream.survey.num_held_out == len(list(stream.training_groups(is_held_out=True))) > 0
    assert stream.survey.plain_sums[1] == 3.0 * stream.survey.num_plain == 3.0 * 10 * 5 * 4


def test_an_epoch_is_every_training_group_once_in_an_order_of_its_own(tmp_path):
    stream = stream_of(write_examples(tmp_path))
    epochs = [[keys_of(batch) for batch in stream.epoch(epoch)] for epoch in (0, 1, 0)]
    assert epochs[0] == epochs[2] != epochs[1]
    assert sorted(len(batch) for batch in epochs[0])[1:] == [4] * (len(epochs[0]) - 1)
    for batches in epochs:
        assert sorted(key for batch in batches for key in batch) == sorted(
            keys_of(stream.training_groups(is_held_out=False))
        )


def test_an_epoch_of_so_many_groups_takes_other_users_each_time(tmp_path):
    stage = write_examples(tmp_path, num_users=(4, 4, 4, 4, 4))
    whole = keys_of(stream_of(stage).training_groups(is_held_out=False))
    epochs = [
        [key for batch in stream_of(stage, max_epoch_groups=13).epoch(epoch) for key in keys_of(batch)]
        for epoch in range(20)
    ]
    for keys in epochs:
        assert len(keys) == len(set(keys)) == 13
    assert {key for keys in epochs for key in keys} == set(whole)
    shares = [
        [key for batch in stream_of(stage, rank, 3, max_epoch_groups=13).epoch(0) for key in keys_of(batch)]
        for rank in range(3)
    ]
    assert sorted(key for own in shares for key in own) == sorted(epochs[0])


@pytest.mark.parametrize("num_ranks", [2, 3, 64])
def test_any_number_of_ranks_shares_the_same_batches(tmp_path, num_ranks):
    stage = write_examples(tmp_path)
    whole = [keys_of(batch) for batch in stream_of(stage).epoch(1)]
    shares = [[keys_of(batch) for batch in stream_of(stage, rank, num_ranks).epoch(1)] for rank in range(num_ranks)]
    for batch, *own in zip(whole, *shares, strict=True):
        assert sorted(key for each in own for key in each) == sorted(batch)
        assert max(map(len, own)) == -(-len(batch) // num_ranks)


def test_ranks_share_the_first_groups_of_all(tmp_path):
    stage = write_examples(tmp_path)
    whole = keys_of(stream_of(stage).first(7))
    assert whole == keys_of(stream_of(stage).training_groups(is_held_out=False))[:7]
    assert sorted(key for rank in range(3) for key in keys_of(stream_of(stage, rank, 3).first(7))) == sorted(whole)


def test_holdout_takes_about_its_share_of_the_users():
    share = np.mean([is_holdout(f"u{user}", 0, 0.2) for user in range(5000)])
    assert share == pytest.approx(0.2, abs=0.02)
    assert not any(is_holdout(f"u{user}", 0, 0.0) for user in range(100))


@pytest.mark.ray
@pytest.mark.parametrize("interaction", ["pair", "bilinear"])
def test_a_stored_base_gives_the_same_features_and_fingerprint(encoder, tmp_path, interaction):
    import torch

    from hydra_ray.scorer.base.model import load_base, new_base, write_base

    shape = BaseShape(interaction=interaction, handcrafted_names=HANDCRAFTED_NAMES, width=8, max_text_tokens=32)
    base = new_base(encoder, shape, seed=1).train(False)
    base.plain_means.fill_(2.0)
    fingerprint = write_base(base, str(tmp_path / "base"), {"seed": 1})
    found, description = load_base(str(tmp_path / "base"))
    assert description["fingerprint"] == fingerprint
    assert write_base(base, str(tmp_path / "again"), {}) == fingerprint
    queries, candidates = ["cat dog", "red", "cat dog"], ["tea", "tea rice road sun moon", "tea"]
    with torch.no_grad():
        features = found.learned_features(queries, candidates)
        torch.testing.assert_close(features, base.learned_features(queries, candidates))
        torch.testing.assert_close(features[0], features[2], rtol=0, atol=0)
        alone = found.learned_features(queries[1:2], candidates[1:2])
    torch.testing.assert_close(features[1:2], alone, rtol=0, atol=0.05)  # bfloat16, other padding
    assert (found.plain_features(torch.zeros(1, 2)) == -2).all()


@pytest.mark.ray
def test_a_base_whose_weights_have_changed_is_never_used(encoder, tmp_path):
    from hydra_ray.scorer.base.model import load_base, new_base, write_base

    shape = BaseShape(interaction="pair", handcrafted_names=(), width=8, max_text_tokens=32)
    write_base(new_base(encoder, shape, seed=1), str(tmp_path), {})
    weights = tmp_path / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(DamagedError, match=rf"{tmp_path} holds 1 file damaged.*Remove the folder, and"):
        load_base(str(tmp_path))


@pytest.mark.ray
def test_mean_of_bilinear_features_is_close_to_the_cosine(encoder):
    import torch

    from hydra_ray.scorer.base.model import new_base

    shape = BaseShape(interaction="bilinear", handcrafted_names=(), width=32, max_text_tokens=32)
    base = new_base(encoder, shape, seed=0).train(False)
    with torch.no_grad():
        pooled = base._pool(["cat dog", "moon"])
        features = base.learned_features(["cat dog"], ["moon"])
    torch.testing.assert_close(features.mean(), pooled[0] @ pooled[1], rtol=0, atol=1e-3)


@pytest.mark.ray
def test_the_models_losses_are_the_cross_entropies_of_its_scores(encoder, tmp_path):
    import torch

    from hydra_ray.scorer.base.model import new_base
    from hydra_ray.scorer.base.objective import LowRankTraining, frozen_table, user_losses
    from hydra_ray.scorer.linear.groups import group_losses

    training_groups = list(stream_of(write_examples(tmp_path), holdout_fraction=0).training_groups(is_held_out=False))[
        :7
    ]
    shape = BaseShape(interaction="bilinear", handcrafted_names=HANDCRAFTED_NAMES, width=8, max_text_tokens=32)
    base = new_base(encoder, shape, seed=0)
    base.train_layers(1)
    training_model = LowRankTraining(base, num_users=10).eval()
    torch.nn.init.normal_(training_model.codes.weight)
    torch.nn.init.normal_(training_model.weights)
    table = frozen_table(training_model, iter(training_groups))
    with torch.no_grad():
        codes = training_model.codes.weight[[each.user_index for each in training_groups for _ in each.targets]].numpy()
        shared = table.features_ND @ training_model.weights.numpy()
        personal = shared + ((table.features_ND @ training_model.basis.numpy()) * codes).sum(1)
        np.testing.assert_allclose(training_model(training_groups).numpy(), group_losses(table, personal), rtol=1e-3)
    expected = group_losses(table, shared)
    np.testing.assert_allclose(
        user_losses(training_model, iter(training_groups)), [expected[:5].mean(), expected[5:].mean()], rtol=1e-3
    )
    assert training_model([]).item() == 0


@pytest.mark.ray
def test_pointwise_losses_score_every_candidate_alone(encoder, tmp_path):
    import torch

    from hydra_ray.scorer.base.model import new_base
    from hydra_ray.scorer.base.objective import LowRankTraining, frozen_table

    training_groups = list(stream_of(write_examples(tmp_path), holdout_fraction=0).training_groups(is_held_out=False))[
        :3
    ]
    shape = BaseShape(interaction="bilinear", handcrafted_names=HANDCRAFTED_NAMES, width=8, max_text_tokens=32)
    training_model = LowRankTraining(new_base(encoder, shape, seed=0), num_users=10, loss="pointwise").eval()
    torch.nn.init.normal_(training_model.weights)
    table = frozen_table(training_model, iter(training_groups))
    scores = table.features_ND @ training_model.weights.detach().numpy()
    expected = []
    for each, start in zip(training_groups, table.group_starts[:-1], strict=True):
        losses = []
        for place, candidate in enumerate(each.group.candidates):
            probability = 1 / (1 + math.exp(-scores[start + place]))
            chance = candidate.quality * math.log(probability) + (1 - candidate.quality) * math.log(1 - probability)
            losses.append(-chance)
        expected.append(sum(losses) / len(losses))
    np.testing.assert_allclose(training_model(training_groups, is_personal=False).detach().numpy(), expected, rtol=1e-3)


@pytest.mark.ray
def test_only_the_upper_layers_and_the_projection_are_trained(encoder):
    from hydra_ray.scorer.base.model import new_base

    base = new_base(encoder, BaseShape(interaction="pair", handcrafted_names=(), width=8, max_text_tokens=32), seed=0)
    base.train_layers(1)
    trained = {name for name, parameter in base.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if not name.startswith("encoder.encoder.layer.1.")} == {"query_projection"}
    base.train()
    dropouts = {name: m.training for name, m in base.named_modules() if type(m).__name__ == "Dropout"}
    assert {name for name, is_on in dropouts.items() if is_on} == {n for n in dropouts if ".layer.1." in n} != set()


@pytest.mark.ray
def test_all_layers_and_the_embeddings_are_trained_where_that_is_configured(encoder):
    from hydra_ray.scorer.base.model import new_base

    base = new_base(encoder, BaseShape(interaction="pair", handcrafted_names=(), width=8, max_text_tokens=32), seed=0)
    base.train_layers("all")
    assert all(parameter.requires_grad for parameter in base.parameters())
    base.train()
    assert all(module.training for module in base.encoder.modules())
    base.train_layers(0)
    assert {name for name, parameter in base.named_parameters() if parameter.requires_grad} == {"query_projection"}


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore:`use_[a-z0-9_]+` is deprecated:DeprecationWarning")  # Ray warns of its own defaults
def test_two_workers_of_zero_hold_half_of_the_optimizer_each(encoder, tmp_path, shared_ray):
    examples = write_examples(tmp_path)
    config = base_config(encoder, num_epochs=1, trainable_layers="all")

    def checkpointed(zero_stage):
        stage = stage_at(tmp_path, f"zero{zero_stage}")
        task = task_of(examples, stage, config, PlacementConfig(train_workers=2, zero_stage=zero_stage))
        train_missing([task], f"{stage.folder}/train", stage.name)
        assert task.training()["epochs_done"] == 1
        files = Path(stage.folder, "train", f"zero{zero_stage}-workers2", "base", "epoch-1").rglob("*.pt")
        return {each.name: each.stat().st_size for each in files}

    whole, shards = checkpointed(0), checkpointed(1)
    [num_bytes] = whole.values()  # the trained weights, and two moments of each
    assert len(shares := [size for name, size in shards.items() if "optim_states" in name]) == 2
    # A shard holds the weights of its share in float32 too.
    assert all(size < 0.6 * num_bytes for size in shares)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore:`use_[a-z0-9_]+` is deprecated:DeprecationWarning")  # Ray warns of its own defaults
@pytest.mark.parametrize("zero_stage", [0, 2])
def test_training_resumes_scales_and_feeds_features(encoder, tmp_path, shared_ray, zero_stage):
    examples = write_examples(tmp_path)
    config = base_config(encoder, learning_rate=5e-3)

    def train(name, placement, **settings):
        stage = stage_at(tmp_path, name)
        settings = config.model_copy(update=settings)
        arguments = (settings, "bilinear", HANDCRAFTED_NAMES, placement)
        counters = train_bases(examples, stage, *arguments, folds=[None], has_soft_targets=False)
        description = read_json(f"{stage.folder}/base/base.json")
        assert counters["lessons"] + counters["held_out"] == 50
        assert not (tmp_path / "stages" / "planted" / name / ("b" * 16) / "train").exists()
        return stage, description

    two = PlacementConfig(train_workers=2, zero_stage=zero_stage)
    _, straight = train("straight", two)
    losses = straight["training"]["train_losses"]
    assert len(losses) == 2
    assert all(later < earlier for earlier, later in pairwise(losses))

    # As after a kill: one epoch is checkpointed, and no base was written.
    broken = stage_at(tmp_path, "resumed")
    task = task_of(examples, broken, config.model_copy(update={"num_epochs": 1}), two)
    train_missing([task], f"{broken.folder}/train", broken.name)
    first = read_json(f"{broken.folder}/base/base.json")
    assert first["training"]["epochs_done"] == 1
    shutil.rmtree(f"{broken.folder}/base")
    _, resumed = train("resumed", two)
    assert resumed["training"]["train_losses"][0] == first["training"]["train_losses"][0]
    assert resumed["training"]["holdout_losses"][:2] == first["training"]["holdout_losses"]
    assert resumed["training"]["epochs_done"] == 2

    single, alone = train("single", PlacementConfig(train_workers=1, zero_stage=1), holdout_fraction=0.0)
    assert alone["training"]["best_epoch"] == 2
    assert alone["training"]["holdout_losses"] == []
    untrained, zero = train("untrained", PlacementConfig(), num_epochs=0)
    assert zero["training"]["best_epoch"] == 0

    for stage in (single, untrained):
        writer = FeatureWriter(examples, stage, stage, ["base"])
        assert [writer(bucket)["rows"] for bucket in range(2)] == [9, 6]
        [part] = read_features(stage.part("features/base", 0), 7, has_soft_targets=False)
        assert part.table.features_ND.shape == (9 * 5 * 4, 8 + 2)
        assert part.base_fingerprint == read_json(f"{stage.folder}/base/base.json")["fingerprint"]
        assert part.user_ids == sorted(part.user_ids)
        assert (part.is_unseen_U == (part.is_new_U | (stage is untrained))).all()
        assert part.table.has_target().sum() == 6 * 5 + 3 * 4
        assert (part.is_known_G | part.is_new_U[part.table.user_of_group()]).all()


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore:`use_[a-z0-9_]+` is deprecated:DeprecationWarning")  # Ray warns of its own defaults
def test_neither_the_engine_nor_the_number_of_workers_changes_what_is_trained(encoder, tmp_path, shared_ray):
    from safetensors.numpy import load_file

    examples = write_examples(tmp_path)
    # Each worker draws its own dropout, so there is none here.
    plain = shutil.copytree(encoder, tmp_path / "plain")
    settings = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(
        json.dumps({**settings, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    )
    # Steps are small, so that they do not make much of the rounding, in which the placements differ.
    config = base_config(str(plain), learning_rate=3e-4, holdout_fraction=0.0)

    def train(zero_stage, train_workers, num_epochs=2):
        stage = stage_at(tmp_path, f"zero{zero_stage}-{train_workers}-{num_epochs}")
        placement = PlacementConfig(train_workers=train_workers, zero_stage=zero_stage)
        settings = config.model_copy(update={"num_epochs": num_epochs})
        train_bases(
            examples, stage, settings, "bilinear", HANDCRAFTED_NAMES, placement, folds=[None], has_soft_targets=False
        )
        return load_file(f"{stage.folder}/base/model.safetensors"), read_json(f"{stage.folder}/base/base.json")

    (alone, told), (untrained, _) = train(0, 1), train(0, 1, num_epochs=0)

    def distance(first, second):
        return sum(np.square(first[name] - second[name]).sum() for name in alone) ** 0.5

    for zero_stage, train_workers in ((0, 2), (1, 2)):
        spread, told_spread = train(zero_stage, train_workers)
        assert told["training"]["train_losses"] == pytest.approx(told_spread["training"]["train_losses"], rel=1e-3)
        assert alone.keys() == spread.keys()
        # Adam makes whole steps of gradients that are rounding alone; other batches would be as far as training itself.
        assert distance(alone, spread) < 0.1 * distance(alone, untrained)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore:`use_[a-z0-9_]+` is deprecated:DeprecationWarning")  # Ray warns of its own defaults
def test_the_bases_of_several_folds_are_those_of_each_fold_alone(encoder, tmp_path, shared_ray, caplog):
    examples = write_examples(tmp_path)
    config, placement = base_config(encoder, learning_rate=5e-3), PlacementConfig()

    def train(stage, folds):
        return train_bases(examples, stage, config, "pair", HANDCRAFTED_NAMES, placement, folds, has_soft_targets=False)

    def base(stage, fold):
        return read_json(f"{stage.folder}/base-{fold}/base.json")

    together, alone = stage_at(tmp_path, "together"), stage_at(tmp_path, "alone")
    # As after a kill: the first base is there, and the checkpoint of the second's first epoch.
    train(together, [0])
    one_epoch = config.model_copy(update={"num_epochs": 1})
    task = task_of(examples, together, one_epoch, placement, fold=1, interaction="pair")
    train_missing([task], f"{together.folder}/train", together.name)
    first = base(together, 1)["training"]["train_losses"]
    shutil.rmtree(f"{together.folder}/base-1")
    caplog.clear()
    with caplog.at_level("INFO", "hydra_ray"):
        counters = train(together, [0, 1, 2])
    told = [f"base-{fold}: epoch {epoch}" for fold in (1, 2) for epoch in (1, 2)]
    assert [name for message in caplog.messages for name in told if name in message] == told
    assert "base-0" not in caplog.text
    assert counters["epochs"] == 6
    assert base(together, 1)["training"]["train_losses"][:1] == first
    train(alone, [2])
    assert base(together, 2)["training"] == base(alone, 2)["training"]
    assert base(together, 2)["fingerprint"] == base(alone, 2)["fingerprint"]
    assert not (tmp_path / "stages" / "planted" / "together" / ("b" * 16) / "train").exists()


def network_training(encoder, **settings):
    from hydra_ray.scorer.base.model import new_base
    from hydra_ray.scorer.base.objective import NetworkTraining

    shape = BaseShape(interaction="pair", handcrafted_names=HANDCRAFTED_NAMES, width=8, max_text_tokens=32)
    return NetworkTraining(new_base(encoder, shape, seed=0), num_users=10, **settings)


@pytest.mark.ray
def test_each_training_users_network_is_judged_by_the_cross_entropy_of_its_two_labels(encoder, tmp_path):
    import torch
    from torch import nn

    training_model = network_training(encoder).eval()
    nn.init.normal_(training_model.networks)
    stream = stream_of(write_examples(tmp_path), holdout_fraction=0, training_heads="networks")
    training_groups = list(stream.training_groups(is_held_out=False))[3:7]  # of two users
    assert len(users := {each.user_index for each in training_groups}) == 2
    losses = training_model(training_groups)
    losses.sum().backward()
    features = training_model.features(training_groups).detach()
    found, width = training_model.networks.grad, training_model.base.num_features
    slopes = torch.zeros_like(found)
    rows = iter(features.split([len(each.targets) for each in training_groups]))
    for each, loss in zip(training_groups, losses, strict=True):
        network = training_model.networks[each.user_index].detach().clone().requires_grad_()
        inward, bias, outward, offsets = network.split([width * width, width, 2 * width, 2])
        hidden = torch.tanh(next(rows) @ inward.reshape(width, width) + bias)
        labels = torch.tensor([int(candidate.quality) for candidate in each.group.candidates])
        expected = nn.functional.cross_entropy(hidden @ outward.reshape(width, 2) + offsets, labels)
        torch.testing.assert_close(loss, expected)
        slopes[each.user_index] += torch.autograd.grad(expected, network)[0]
    torch.testing.assert_close(found, slopes, rtol=1e-4, atol=1e-5)
    assert set(found.abs().sum(1).nonzero().flatten().tolist()) == users
    assert training_model.base.query_projection.grad.abs().sum() > 0


@pytest.mark.ray
def test_networks_and_all_layers_of_the_base_are_trained_together_from_the_first_step(encoder, tmp_path):
    import torch

    from hydra_ray.scorer.base.model import load_base, new_base
    from hydra_ray.scorer.base.train_worker import train

    settings = {"loss": "pointwise", "training_heads": "networks", "trainable_layers": "all", "holdout_fraction": 0}
    config = base_config(encoder, num_epochs=3, learning_rate=5e-3, warmup_fraction=0, **settings)
    examples = write_examples(tmp_path)
    task = task_of(examples, stage_at(tmp_path, "networks"), config, PlacementConfig(zero_stage=0), interaction="pair")
    train([task], str(tmp_path / "checkpoints"))
    training = task.training()
    assert (training["best_epoch"], training["holdout_losses"], training["num_held_out"]) == (3, [], 0)
    assert training["train_losses"][-1] < training["train_losses"][0]
    trained, _ = load_base(task.destination)
    untrained = new_base(encoder, task.shape, seed=0)
    for layer, start in zip(trained.encoder.encoder.layer, untrained.encoder.encoder.layer, strict=True):
        assert not torch.equal(layer.output.dense.weight.float(), start.output.dense.weight)
    assert not torch.equal(trained.query_projection, untrained.query_projection)


def test_queries_of_equal_qualities_teach_users_networks_where_candidates_are_judged_alone(tmp_path):
    stage = write_examples(tmp_path)
    location = stage.part("examples", 0)
    users = from_table(read_part(location, arrow_schema(UserExamples)), UserExamples)
    equal = [
        replace(
            user,
            groups=tuple(
                replace(group, candidates=tuple(replace(each, quality=0.0) for each in group.candidates))
                if group.group_id == "g0"
                else group
                for group in user.groups
            ),
        )
        for user in users
    ]
    write_part(location, to_table(equal, UserExamples))

    def names(**settings):
        stream = stream_of(stage, holdout_fraction=0, **settings)
        assert stream.survey.num_training_groups == len(list(stream.training_groups(is_held_out=False)))
        return {each.group.group_id for each in stream.training_groups(is_held_out=False) if each.user_index < 6}

    usual = {f"g{place}" for place in range(1, 5)}
    assert names() == names(loss="pointwise") == usual
    assert names(training_heads="networks") == usual
    assert names(training_heads="networks", loss="pointwise") == usual | {"g0"}


@pytest.mark.parametrize(
    ("step", "warmup", "factor"),
    [(0, 0.1, 0.1), (4, 0.1, 0.48), (9, 0.1, 0.91), (50, 0.1, 0.5), (0, 0, 1), (25, 0, 0.75)],
)
def test_the_learning_rate_rises_in_the_warmup_and_falls_to_nothing(step, warmup, factor):
    from hydra_ray.scorer.base.train_worker import _rate_factor

    assert _rate_factor(step, 100, warmup) == pytest.approx(factor)
    assert _rate_factor(100, 100, warmup) == 0
