"""Which option means something for which kind of encoder; what means nothing is refused by the command's own flag."""

import re
from dataclasses import fields

import pytest
from tiny_encoders import write_tiny_encoder

from recbole_blair.cli.main import build_parser, command_names, find_subparser, main
from recbole_blair.config.keys import KeyOption, props_keys
from recbole_blair.errors import InputError
from recbole_blair.text.encoders import check_for_encoding, drop_unused
from recbole_blair.text.options import KEYS, EncoderOptions

KINDS = ("tfidf-svd", "hub", "folder", "openai", "vectors")
TABLE = {  # option: a value, the kinds that have it (t h f o v)
    "revision": ("v1", ".h..."), "cache_dir": ("x", ".h..."), "pooling": ("mean", ".hf.."),
    "normalise": (False, ".hf.."),
    "max_length": (3, ".hfo."), "prompt": ("q: ", ".hfo."), "query_prompt": ("q: ", ".hfo."),
    "dimensions": (8, ".hfov"), "text_fields": ("title", "thfo."), "text_recipe": ("released", "thfo."),
    "base_url": ("http://x", "...o."), "concurrency": (2, "...o."), "send_dimensions": (False, "...o."),
    "precision": ("bf16", ".hf.."), "device": ("cpu", "thfov"),
}  # fmt: skip


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    (root / "v.npy").write_bytes(b"")
    folder = str(write_tiny_encoder(root / "e"))
    plms = ("tfidf-svd", "a/model", folder, "openai:text-embedding-3-small", f"vectors:{root / 'v.npy'}")
    return dict(zip(KINDS, plms))


def test_the_table_has_every_option():
    assert set(TABLE) == {field.name for field in fields(EncoderOptions)} - {"trainable"}  # which no user gives
    assert set(KEYS.values()) <= set(props_keys("overall.yaml").defaults)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", TABLE)
def test_an_option_holds_or_is_refused(encoders, kind, option):
    value, kinds = TABLE[option]
    plm, options = encoders[kind], {option: value}
    if kinds[KINDS.index(kind)] != ".":
        check_for_encoding(plm, options)
        assert drop_unused(plm, options) == options
        return
    line = re.escape(f"--{KEYS.get(option, option)}={value} belongs to ") + ".*, but --plm=.*; leave it out$"
    with pytest.raises(InputError, match=line):
        check_for_encoding(plm, options)
    assert drop_unused(plm, options) == {}


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["encode", "--build=b", "--pooling=first"], "--pooling=first: 'first' is not one of cls"),
        (["encode", "--build=b", "--pooling=cls+cls"], "--pooling=cls+cls names a pooling twice"),
        (["encode", "--build=b", "--plm=tfidf-svd", "--max_length=3"], "--max_length=3 belongs to a pretrained"),
        (
            ["encode", "--build=b", "--plm=tfidf-svd", "--plm_send_dimensions=False"],
            "--plm_send_dimensions=False belon",
        ),
        (["encode", "--build=b", "--plm={folder}", "--revision=x"], "--revision=x belongs to a hub id"),
        (["encode", "--build=b", "--plm=tfidf-svd", "--batch_tokens=9"], "--batch_tokens=9 belongs to a pretrained"),
        (["compare", "a", "b", "--plm={folder}", "--revision=x"], "--revision=x belongs to a hub id"),
        (["compare", "a", "b", "--plm={folder}", "--pooling=cls+cls"], "--pooling=cls+cls names a pooling twice"),
        (["search", "--dataset={shop}", "--retriever=tfidf-svd", "--max_length=3"], "--max_length=3 belongs to a p"),
        (
            ["search", "--dataset={shop}", "--retriever={folder}", "--plm_revision=x"],
            "--plm_revision=x belongs to a hub",
        ),
        (["search", "--dataset={shop}", "--retriever=no/ne/x"], "--retriever=no/ne/x: no such folder"),
        (["search", "--dataset={shop}", "--retriever=hybrid", "--plm=no/ne/x"], "--plm=no/ne/x: no such folder"),
        (["train", *(o := ["--model=UniSRecBlair", "--dataset=tiny"]), "--plm_pooling=first"], "--plm_pooling=first: "),
        (["train", *o, "--plm=tfidf-svd", "--plm_send_dimensions=False"], "--plm_send_dimensions=False belongs to "),
        (["train", *o, "--plm=tfidf-svd", "--plm_max_length=3"], "--plm_max_length=3 belongs to a pretrained"),
        (["train", *o, "--plm={folder}", "--plm_revision=x"], "--plm_revision=x belongs to a hub id"),
    ],
)
def test_the_message_names_the_commands_own_flag(encoders, tmp_path, monkeypatch, capsys, argv, line):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "b.item").write_text("item_id:token\ttext:token_seq\ni1\tred lamp\n")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "item_pool.jsonl").write_text('{"item_id": "i1", "category": "c", "metadata": "red lamp"}\n')
    (tmp_path / "shop" / "test.csv").write_text("qid,query,item_id\n1,lamp,i1\n")
    argv = [word.format(folder=encoders["folder"], shop=tmp_path / "shop") for word in argv]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}") and error.count("\n") == 1


def test_every_flag_that_is_a_key_by_another_name_is_renamed():
    """So that a message about `--plm_pooling` says `--pooling` where that is the flag."""
    renamed = set()
    for command in command_names():
        if command in ("train", "tune", "pretrain"):  # every key is a flag
            continue
        actions = find_subparser(build_parser([command]), command)._actions
        renamed |= {(command, a.type.key, a.dest) for a in actions if isinstance(a.type, KeyOption)}
    other = {entry for entry in renamed if entry[1] != entry[2] and entry[1].startswith("plm_")}
    assert {(c, "plm_pooling", "pooling") for c in ("encode", "compare", "search")} <= other
    assert ("encode", "plm_revision", "revision") in other and ("search", "plm_revision", "revision") not in other
