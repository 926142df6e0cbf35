"""Config files of the user that are broken: refused by file and line, before Hydra reads them."""

import re

import pytest

from headtohead.options import ConfigError
from headtohead.runner.config_files import check_file

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{level}: &a{level}\n  <<: [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12)
)
# Content and the line that is at fault.
BROKEN = {
    "syntax": (b"name: softmax\nlabel_smoothing: [0.1\nx: 1\n", 3),
    "tab": (b"name: softmax\n\tlabel_smoothing: 0.1\n", 2),
    "utf16": ("name: softmax".encode("utf-16"), 1),
    "latin1": ("name: softmax\n# ü\n".encode("latin-1"), 2),
    "nul": (b"name: softmax\nx: a\0b\n", 2),
    "control": (b"name: softmax\n\nx: a\x07b\n", 3),
    "empty": (b"", 1),
    "comment": (b"# nothing\n", 1),
    "list": (b"# a list\n- 1\n- 2\n", 2),
    "number": (b"\n42\n", 2),
    "text": (b"softmax", 1),
    "two documents": (b"name: softmax\n---\nname: sigmoid\n", 2),
    "unknown anchor": (b"name: softmax\nx: *y\n", 2),
    "itself": (b"name: softmax\nx: &y [1, *y]\n", 2),
    "laughs": (LAUGHS.encode(), None),
    "merges": (MERGES.encode(), None),
    "deep": (b"x: " + b"[" * 5000 + b"]" * 5000, None),
}
# Content that no rule of YAML forbids, but of which no config can be made.
UNFIT = {
    "duplicate": (b"name: softmax\nname: sigmoid\n", 2),
    "null key": (b"name: softmax\nnull: 1\n", None),
    "set": (b"name: softmax\nx: !!set {a, b}\n", None),
    "python": (b"name: softmax\nx: !!python/name:os.system\n", 2),
    "defaults": (b"defaults: 3\nname: softmax\n", None),
    "default": (b"defaults: [{a: 1}]\nname: softmax\n", None),
    "header": (b"# @package a b c\nname: softmax\n", None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_the_line(tmp_path, name):
    content, line = BROKEN[name]
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as refusal:
        check_file(path)
    assert str(refusal.value).startswith(str(path)) and len(str(refusal.value).splitlines()) == 1
    if line is not None:
        assert f"mine.yaml, line {line}: " in str(refusal.value)


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbfname: softmax\n", b"a: &a [1, 2]\nb: *a\n", b"a: 1\r\nb: 2\r\n", "a: ü".encode(),
     b"a: &x {b: 1}\nc: {<<: *x}\n"],
)  # fmt: skip
def test_a_mark_of_the_byte_order_aliases_and_other_line_ends_are_read(tmp_path, content):
    (tmp_path / "mine.yaml").write_bytes(content)
    check_file(tmp_path / "mine.yaml")


@pytest.mark.parametrize("name", ["syntax", "utf16", "empty", "list", "laughs", "itself", *UNFIT])
@pytest.mark.parametrize("group", ["head", "claims", "experiment"])
def test_the_command_names_the_file_of_the_option(command, tmp_path, group, name):
    folder = tmp_path / "mine" / group
    folder.mkdir(parents=True)
    (folder / "bad.yaml").write_bytes((BROKEN | UNFIT)[name][0])
    (folder / "worse.yaml").write_bytes(b"[")
    value = "[bad]" if group == "claims" else "bad"
    result = command("--config-dir", "mine", f"{group}={value}")
    assert result.status == 2, result.err
    assert re.match(rf"headtohead: .*mine/{group}/bad\.yaml", result.err) and len(result.err.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("claims/bad.yaml", "accuracy: 3", "claims.accuracy=3: must be a group"),
        ("claims/bad.yaml", "mine: {sentence: x}", "claims.mine.metric: missing"),
        ("claims/bad.yaml", "mine: [1, 2]", "claims.mine=[1, 2]: must be a group"),
        ("head/bad.yaml", "name: sofmax", "head.name=sofmax: no such head; did you mean softmax"),
        ("head/bad.yaml", "name: [softmax]", "head.name"),
        ("head/bad.yaml", "defaults: [softmx]\nname: softmax", "softmx"),
        ("experiment/bad.yaml", "# @package _global_\ntraining: 5", "training"),
        ("experiment/bad.yaml", "# @package _global_\nhydra: {sweeper: {params: {head: [softmax, sigmoid]}}}", "head="),
        ("experiment/bad.yaml", "# @package _global_\nhydra: {sweeper: {params: 3}}", "params"),
        ("experiment/bad.yaml", "# @package _global_\nhydra: {sweeper: {params: {claims: 'loss,speed'}}}", "claims"),
        ("experiment/bad.yaml", "# @package _global_\nclaims: [1]", "experiment/bad.yaml: does not fit"),
        ("experiment/bad.yaml", "# @package _global_\nclaims: 7", "claims"),
        ("experiment/bad.yaml", "# @package _global_\nhydra: 7", "experiment/bad.yaml: does not fit"),
    ],
)
def test_content_that_is_wrong_is_named(command, tmp_path, file, content, expected):
    path = tmp_path / "mine" / file
    path.parent.mkdir(parents=True)
    path.write_text(content)
    group = path.parent.name
    result = command("--config-dir", "mine", f"{group}={'[bad]' if group == 'claims' else 'bad'}")
    assert result.status == 2, result.err
    assert expected in result.err and len(result.err.splitlines()) <= 2
    assert not (tmp_path / "outputs").exists()
