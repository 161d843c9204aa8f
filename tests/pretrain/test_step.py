"""Gradient caching against the plain step; the heads of several model families; T5."""

import copy

import pytest
import torch

from recbole_blair.pretrain.data import PairCollator
from recbole_blair.pretrain.load import read_vocabulary
from recbole_blair.pretrain.model import PairEncoder, TokenHead
from recbole_blair.pretrain.step import Objective, Step, contrastive_loss
from tests.pretrain.conftest import pair_rows, tiny_config


def build_model(tokenizer, kind="bert", pooling="cls", dense=False, **changes):
    from transformers import AutoModel, AutoModelForMaskedLM

    torch.manual_seed(0)
    config = tiny_config(tokenizer, kind, **changes)
    body = AutoModel.from_config(config)
    if getattr(body, "pooler", None) is not None:
        body.pooler = None
    head = TokenHead(AutoModelForMaskedLM.from_config(config), body)
    return PairEncoder(body, pooling, head, None, dense)


def build_batch(tokenizer, n, chunk):
    from recbole_blair.pretrain.data import text_key

    rows = [
        {
            **row,
            "row": i,
            "item_key": text_key(row["item_id"]),
            "metadata_key": text_key(row["metadata"]),
            "history_key": i // 3,
            "context_key": i,
        }
        for i, row in enumerate(pair_rows(n, n - 2))
    ]
    return PairCollator(tokenizer, 32, chunk, tokenizer.pad_token_id)(rows)


def run_step(model, tokenizer, batch, chunk, objective, number=5):
    model = copy.deepcopy(model).double().train()
    step = Step(model, objective, read_vocabulary(tokenizer, model, objective.mlm), chunk, seed=3)
    torch.manual_seed(11)
    losses = step.run(batch, number)
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, torch.rand(1)


@pytest.mark.parametrize("objective", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(("pooling", "dense"), [("cls", True), ("mean", False)])
def test_cached_step_equals_plain_step_with_dropout(tokenizer, objective, pooling, dense):
    objective = Objective(contrastive=objective[0], mlm=objective[1])
    model = build_model(tokenizer, pooling=pooling, dense=dense)
    batch = build_batch(tokenizer, 10, chunk=6)
    assert len(batch["chunks"]) == 4
    plain, plain_grads, after_plain = run_step(model, tokenizer, batch, 0, objective)
    cached, cached_grads, after_cached = run_step(model, tokenizer, batch, 6, objective)
    assert plain_grads.keys() == cached_grads.keys() and len(plain_grads) > 20
    for name in plain:
        assert torch.allclose(plain[name].double(), cached[name].double(), rtol=0, atol=1e-12)
    for name, grad in plain_grads.items():
        assert torch.allclose(grad, cached_grads[name], rtol=0, atol=1e-6), name
        assert torch.allclose(grad, cached_grads[name], rtol=1e-9, atol=1e-12), name
    assert torch.equal(after_plain, after_cached)  # the generators stand where the plain step leaves them


def test_dropout_differs_between_steps_without_a_seed(tokenizer):
    """The test above would pass without dropout; it is on."""
    model = build_model(tokenizer).train()
    batch = build_batch(tokenizer, 4, 0)
    assert not torch.equal(model.embed(batch["ids"], batch["lengths"]), model.embed(batch["ids"], batch["lengths"]))


def test_chunks_do_not_change_the_loss(tokenizer):
    model = build_model(tokenizer, dropout=0.0)
    results = []
    for chunk in (0, 3):
        objective = Objective(mlm_share=0.4)
        losses, grads, _ = run_step(model, tokenizer, build_batch(tokenizer, 10, chunk), 0, objective)
        results.append((losses, grads))
    assert torch.allclose(results[0][0]["loss"], results[1][0]["loss"], atol=1e-12)
    for name, grad in results[0][1].items():
        assert torch.allclose(grad, results[1][1][name], atol=1e-12), name


def test_step_equals_one_graph_of_the_whole_loss(tokenizer):
    model = build_model(tokenizer, dropout=0.0).double().train()
    objective = Objective(mlm_share=0.4)
    batch = build_batch(tokenizer, 10, 3)
    losses, grads, _ = run_step(model, tokenizer, batch, 0, objective)
    step = Step(model, objective, read_vocabulary(tokenizer, model, True), seed=3)
    noisy, lengths, labels = step.noisy_batch(batch, 5)
    states = model.hidden_states(noisy, lengths)
    logits = model.token_head(states.flatten(0, 1)).double()
    own = torch.nn.functional.cross_entropy(logits, labels.flatten(), ignore_index=-100)
    whole = contrastive_loss(model.embed(batch["ids"], batch["lengths"]), batch, objective) + 0.1 * own
    whole.backward()
    assert torch.allclose(losses["loss"], whole, atol=1e-12)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, grads[name], rtol=1e-9, atol=1e-12), name


def test_total_is_contrastive_plus_weighted_own_loss(tokenizer):
    model = build_model(tokenizer)
    batch = build_batch(tokenizer, 6, 0)
    losses, _, _ = run_step(model, tokenizer, batch, 0, Objective(mlm_weight=0.25))
    assert float(losses["loss"]) == pytest.approx(float(losses["contrastive"]) + 0.25 * float(losses["mlm"]), abs=1e-9)
    alone, _, _ = run_step(model, tokenizer, batch, 0, Objective(contrastive=False, mlm_weight=0.25))
    assert set(alone) == {"loss", "mlm"} and alone["loss"] == alone["mlm"]


@pytest.mark.parametrize("chunk", [0, 3])
def test_mlm_on_metadata_is_the_loss_of_the_metadata_alone(tokenizer, chunk):
    """Value and gradients are those of the whole masked-language model over the metadata's hidden tokens."""
    model = build_model(tokenizer, dropout=0.0)
    batch, objective = build_batch(tokenizer, 10, 3), Objective(contrastive=False, mlm_share=0.4, mlm_on="metadata")
    losses, grads, _ = run_step(model, tokenizer, batch, chunk, objective)
    model = model.double().train()
    both = Step(model, Objective(mlm_share=0.4), read_vocabulary(tokenizer, model, True), seed=3)
    noisy, lengths, labels = both.noisy_batch(batch, 5)  # the same tokens are hidden
    states = model.hidden_states(noisy[10:], lengths[10:])
    logits = model.token_head(states.flatten(0, 1)).double()
    own = torch.nn.functional.cross_entropy(logits, labels[10:].flatten(), ignore_index=-100)
    own.backward()
    assert torch.allclose(losses["mlm"], own, atol=1e-12) and (labels[:10] != -100).any()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, grads[name], rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "deberta-v2", "modernbert"])
def test_token_head_equals_the_whole_masked_language_model(tokenizer, kind):
    from transformers import AutoModel, AutoModelForMaskedLM

    changes = {
        "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
        "electra": {"embedding_size": 16},
        "modernbert": {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
    }.get(kind, {})
    config = tiny_config(tokenizer, kind, **changes)
    torch.manual_seed(0)
    whole = AutoModelForMaskedLM.from_config(config).eval()
    body = AutoModel.from_config(config).eval()
    body.load_state_dict(whole.base_model.state_dict(), strict=False)
    batch = build_batch(tokenizer, 4, 0)
    inside = torch.arange(batch["ids"].shape[1]) < batch["lengths"][:, None]
    expected = whole(input_ids=batch["ids"], attention_mask=inside.long()).logits[inside]
    model = PairEncoder(body, "cls", TokenHead(copy.deepcopy(whole), body)).eval()
    found = model.token_head(model.hidden_states(batch["ids"], batch["lengths"])[inside])
    assert torch.allclose(found, expected, atol=1e-5)


def test_token_head_shares_the_word_embeddings(tokenizer):
    model = build_model(tokenizer)
    embeddings = model.body.get_input_embeddings().weight
    shared = [n for n, p in model.state_dict(keep_vars=True).items() if p is embeddings]
    assert len(shared) == 2
    assert len([n for n in model.unique_state() if n in shared]) == 1
    other = build_model(tokenizer)
    torch.nn.init.normal_(other.body.get_input_embeddings().weight)
    other.load_unique_state(model.unique_state())
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), model.state_dict().values()))


def test_a_checkpoint_of_another_model_is_refused(tokenizer):
    state = build_model(tokenizer).unique_state()
    state.pop("body.embeddings.word_embeddings.weight")
    with pytest.raises(ValueError, match="checkpoint and model differ"):
        build_model(tokenizer).load_unique_state(state)


@pytest.fixture(scope="module")
def t5(tokenizer):
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"eos_token": "[SEP]", "extra_special_tokens": [f"<extra_id_{i}>" for i in range(8)]})
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    whole = T5ForConditionalGeneration(config)
    return PairEncoder(whole.get_encoder(), "mean", None, whole), tokenizer


def test_t5_denoising_cached_equals_plain(t5):
    model, tokenizer = t5
    words = read_vocabulary(tokenizer, model, True)
    assert len(words.sentinels) == 8
    batch = build_batch(tokenizer, 8, 5)
    plain, plain_grads, _ = run_step(model, tokenizer, batch, 0, Objective())
    cached, cached_grads, _ = run_step(model, tokenizer, batch, 5, Objective())
    assert torch.allclose(plain["loss"], cached["loss"], atol=1e-12)
    assert any("decoder" in name for name in plain_grads)
    for name, grad in plain_grads.items():
        assert torch.allclose(grad, cached_grads[name], rtol=1e-9, atol=1e-12), name


def test_t5_denoising_loss_equals_the_model_own(t5):
    model, tokenizer = t5
    step = Step(model.eval(), Objective(), read_vocabulary(tokenizer, model, True))
    noisy, lengths, labels = step.noisy_batch(build_batch(tokenizer, 6, 0), 1)
    mask = (torch.arange(noisy.shape[1]) < lengths[:, None]).long()
    expected = model.denoiser(input_ids=noisy, attention_mask=mask, labels=labels).loss
    found = model.denoising_loss(noisy, lengths, labels) / (labels != -100).sum()
    assert torch.allclose(found, expected, atol=1e-6)
